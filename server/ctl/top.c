/* top.c: ringcornctl top: asks the server again and again, over two connections (a worker that hangs holds up `requests` for 3 s, and must not
 * hold up the rest), and draws what it says on the terminal's other screen. Without a terminal it prints a frame each interval.
 * One thread; everything that may take long is waited for in one poll(), so that q and Ctrl-C are heard at once. */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/base.h"
#include "conf/conf.h"

enum {
    ANSWER_MAX = 64 * 1024 * 1024,
    SILENCE_MS = 4000, /* a worker that does not answer is given up by the server after 3 s */
    LINKS = 2,
};

/* A connection, for one question. */
struct link {
    const char *command;
    int fd; /* -1 = not connected */
    bool is_asking;
    int64_t asked_ns;
    struct buf line;
    struct json_doc doc; /* the last answer */
    struct json_ref answer;
};

struct top {
    const char *path;
    struct link links[LINKS]; /* metrics, requests */
    struct top_view *view;
    bool is_screen, has_keys; /* of a terminal */
    struct termios saved;
    char why[512];    /* the server cannot be asked; "" = it can */
    int64_t since_ns; /* of that */
    bool has_rates, is_fresh,
        is_dirty; /* two answers; one that was not printed; the screen is not as it should be */
    bool is_over, has_failed;
};

/* --- the terminal -------------------------------------------------------------------------------- */

/* False: nobody reads any more. */
static bool
write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(STDOUT_FILENO, p, n);
        if (k < 0 && errno != EINTR)
            return false;
        p += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
    return true;
}

static void
screen_enter(struct top *t)
{
    static const char enter[] = "\033[?1049h\033[?25l\033[H\033[2J";
    if (t->has_keys) {
        struct termios keys = t->saved;
        keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        keys.c_cc[VMIN] = 1;
        keys.c_cc[VTIME] = 0;
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &keys);
    }
    if (t->is_screen)
        (void)write_all(enter, sizeof(enter) - 1);
    t->is_dirty = true;
}

static void
screen_leave(const struct top *t)
{
    static const char leave[] = "\033[?25h\033[?1049l";
    if (t->is_screen)
        (void)write_all(leave, sizeof(leave) - 1);
    if (t->has_keys)
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &t->saved);
}

static struct top_size
screen_size(void)
{
    struct winsize w;
    struct top_size size = { .rows = 24, .columns = 80, .is_styled = true };
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 && w.ws_col > 0) {
        size.rows = w.ws_row;
        size.columns = w.ws_col;
    }
    return size;
}

/* Line by line over what is there, so that nothing flickers; the last line without its end, which would scroll. */
static void
show(const struct buf *frame)
{
    BUF_OWNED struct buf out = { 0 };
    const char *p = frame->p, *end = frame->p + frame->n;
    bool is_lost = buf_puts(&out, "\033[H") < 0;
    while (p < end) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        is_lost |= buf_append(&out, p, (size_t)(line_end - p)) < 0;
        is_lost |= buf_puts(&out, line_end + 1 < end ? "\033[K\r\n" : "\033[K\033[J") < 0;
        p = line_end + 1;
    }
    if (!is_lost)
        (void)write_all(out.p, out.n); /* a terminal that went away tells by SIGHUP */
}

/* What is wrong with the server; "" = nothing. */
static void
describe_trouble(const struct top *t, char *to, size_t size)
{
    int64_t now_ns = clock_ns();
    const struct link *metrics = &t->links[0];
    to[0] = '\0';
    if (t->why[0] != '\0')
        snprintf(to, size, "no news for %.0f s, asking again: %s",
                 (double)(now_ns - t->since_ns) / NS_PER_S, t->why);
    else if (metrics->is_asking && now_ns - metrics->asked_ns > SILENCE_MS * NS_PER_MS)
        snprintf(to, size, "no answer for %.0f s; waiting",
                 (double)(now_ns - metrics->asked_ns) / NS_PER_S);
}

static void
draw(struct top *t)
{
    BUF_OWNED struct buf frame = { 0 };
    char trouble[640];
    describe_trouble(t, trouble, sizeof(trouble));
    struct top_size size = { 0 };
    if (t->is_screen)
        size = screen_size();
    if (top_view_draw(t->view, t->links[0].answer, t->links[1].answer,
                      trouble[0] != '\0' ? trouble : NULL, size, &frame) < 0)
        return;
    if (t->is_screen)
        show(&frame);
    else if (buf_puts(&frame, "\n") == 0)
        t->is_over |= !write_all(frame.p, frame.n);
    t->is_dirty = t->is_fresh = false;
}

/* --- the server ------------------------------------------------------------------------------------ */

static void
link_close(struct link *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->is_asking = false;
    l->line.n = 0;
}

static void
lost(struct top *t, const char *why)
{
    for (int i = 0; i < LINKS; i++)
        link_close(&t->links[i]);
    if (t->why[0] == '\0')
        t->since_ns = clock_ns();
    snprintf(t->why, sizeof(t->why), "%s", why);
    t->is_dirty = true;
}

static void
ask(struct top *t, struct link *l)
{
    char why[256];
    BUF_OWNED struct buf question = { 0 };
    if (l->is_asking)
        return;
    if (l->fd < 0 && (l->fd = ctl_connect(t->path, why, sizeof(why))) < 0) {
        lost(t, why);
        return;
    }
    if (ctl_question(&question, l->command, "{}") < 0)
        return; /* no memory: at the next tick */
    if (send(l->fd, question.p, question.n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)question.n) {
        lost(t, "the server has closed the connection");
        return;
    }
    l->is_asking = true;
    l->asked_ns = clock_ns();
}

static void
take(struct top *t, struct link *l)
{
    char why[512];
    struct json_ref answer;
    l->is_asking = false;
    json_doc_free(&l->doc);
    l->answer = (struct json_ref){ 0 };
    if (ctl_answer(&l->doc, &l->line, &answer, why, sizeof(why)) < 0) {
        lost(t, why); /* after which nothing of the old answer is there: its document is gone */
        t->has_failed = true;
        return;
    }
    l->line.n = 0;
    l->answer = answer;
    t->is_dirty = true;
    if (l == &t->links[0]) {
        t->has_rates = top_view_take(t->view, answer);
        t->is_fresh = true;
        t->why[0] = '\0';
    }
}

static void
hear(struct top *t, struct link *l)
{
    for (;;) {
        if (l->line.n > ANSWER_MAX || buf_reserve(&l->line, 64 * 1024) < 0) {
            lost(t, "an answer is too long");
            return;
        }
        ssize_t n = recv(l->fd, l->line.p + l->line.n, 64 * 1024, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            lost(t, "the server has closed the connection");
            return;
        }
        l->line.n += (size_t)n;
        if (l->line.p[l->line.n - 1] == '\n') {
            take(t, l);
            return;
        }
    }
}

/* --- the loop ----------------------------------------------------------------------------------------- */

static void
on_signal(struct top *t, int fd)
{
    struct signalfd_siginfo info;
    while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGWINCH) {
            t->is_dirty = true;
        } else if (info.ssi_signo == SIGTSTP) { /* Ctrl-Z: the shell has its terminal as it was */
            screen_leave(t);
            (void)raise(SIGSTOP);
            screen_enter(t);
        } else {
            t->is_over = true;
        }
    }
}

static void
on_keys(struct top *t)
{
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));
    if (n <= 0)
        t->has_keys = n < 0 && errno == EINTR; /* nobody types any more */
    for (ssize_t i = 0; i < n; i++)
        t->is_over |= keys[i] == 'q' || keys[i] == 'Q';
}

static bool
is_asking(const struct top *t)
{
    return t->links[0].is_asking || t->links[1].is_asking;
}

/* Whether there is something to print where there is no screen: rates, and nothing on its way. */
static bool
is_whole(const struct top *t)
{
    return t->is_fresh && t->has_rates && !is_asking(t);
}

static void
tick(struct top *t, bool is_first)
{
    for (int i = 0; i < LINKS && (i == 0 || t->links[0].fd >= 0); i++)
        ask(t, &t->links[i]);
    t->has_failed |= is_first && t->why[0] != '\0';
    t->is_dirty = true;
    if (!t->is_screen && !is_first) {
        char trouble[640];
        describe_trouble(t, trouble, sizeof(trouble) - 1);
        strcat(trouble, trouble[0] != '\0' ? "\n" : "");
        t->is_over |= !write_all(trouble, strlen(trouble));
    }
}

static void
run(struct top *t, int signals, int64_t interval_ms, bool is_once)
{
    int64_t next_ns = clock_ns();
    bool is_first = true;
    while (!t->is_over && !t->has_failed) {
        int64_t now_ns = clock_ns();
        if (now_ns >= next_ns) {
            tick(t, is_first);
            is_first = false;
            next_ns = now_ns + interval_ms * NS_PER_MS;
            continue;
        }
        if (t->is_screen ? t->is_dirty && t->links[0].answer.node != NULL : is_whole(t)) {
            draw(t);
            t->is_over |= is_once && t->has_rates;
            continue;
        }
        struct pollfd p[2 + LINKS] = {
            { .fd = signals, .events = POLLIN },
            { .fd = t->has_keys ? STDIN_FILENO : -1, .events = POLLIN },
        };
        for (int i = 0; i < LINKS; i++)
            p[2 + i] = (struct pollfd){ .fd = t->links[i].fd, .events = POLLIN };
        if (poll(p, ARRAY_LEN(p), (int)((next_ns - now_ns) / NS_PER_MS) + 1) <= 0)
            continue;
        if (p[0].revents != 0)
            on_signal(t, signals);
        if (p[1].revents != 0)
            on_keys(t);
        for (int i = 0; i < LINKS; i++)
            if (p[2 + i].revents != 0 && t->links[i].fd >= 0)
                hear(t, &t->links[i]);
    }
}

int
ctl_top(const char *path, int64_t interval_ms, bool is_once)
{
    struct top t = {
        .path = path,
        .links = { { .command = "metrics", .fd = -1 }, { .command = "requests", .fd = -1 } },
        .view = top_view_new(),
        .is_screen = !is_once && isatty(STDOUT_FILENO),
    };
    t.has_keys = t.is_screen && isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &t.saved) == 0;
    sigset_t ours, before;
    sigemptyset(&ours);
    for (size_t i = 0; i < 5; i++)
        sigaddset(&ours, (int[]){ SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP }[i]);
    sigprocmask(SIG_BLOCK, &ours, &before);
    FD_OWNED int signals = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    if (t.view == NULL || signals < 0) {
        log_operator("top: out of memory or descriptors");
        t.has_failed = true;
    } else {
        bool had_keys = t.has_keys;
        screen_enter(&t);
        run(&t, signals, interval_ms, is_once);
        t.has_keys = had_keys;
        screen_leave(&t);
        if (t.has_failed)
            log_operator("%s", t.why);
    }
    for (int i = 0; i < LINKS; i++) {
        link_close(&t.links[i]);
        buf_free(&t.links[i].line);
        json_doc_free(&t.links[i].doc);
    }
    top_view_free(t.view);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return t.has_failed ? EXIT_CODE_SYSTEM : EXIT_CODE_OK;
}
