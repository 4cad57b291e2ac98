/* fake_worker.c: a worker without Python, so that the master can be tested alone and its workers
 * made to fail in every way.
 *
 * Linked with base/, conf/, master/ and worker/control.c into a program of its own (test_master.py
 * does it). Answers every request with "<slot> <pid> <uid> <tag>"; GET /slow takes half a second; a
 * request with Connection: close, or any while draining, is the connection's last.
 *
 * What it does wrong is read from files in the folder that FAKE names, when it starts:
 * `mode.<slot>`, or `mode`, holds words:
 *   exit=N kill=N      end before ready       hang         never ready
 *   boot_ms=N          takes so long          no_accept    never says that it accepts
 *   drain_ms=N         drains by itself       ignore_drain serves on when told to go
 *   goes_by_itself     drains on SIGTERM at once, without asking the master
 *   mute               closes the control socket after ready */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "conf/conf.h"
#include "master/master.h"
#include "worker/worker.h"

enum { CONNS_MAX = 512, LISTENERS_MAX = 64, SLOW_MS = 500 };

struct conn {
    int fd;
    char in[4096];
    size_t n;
    int64_t answer_at; /* a request is in hand */
    bool is_last, is_used;
};

struct listener {
    int fd;
    int32_t id;
};

static struct conn conns[CONNS_MAX];
static unsigned conns_n;
static struct listener listeners[LISTENERS_MAX];
static unsigned listeners_n;
static const struct worker_args *args;
static char mode[256], tag[64] = "-";
static bool is_draining, is_quitting, is_deaf;
static int64_t draining_since;
static volatile sig_atomic_t got_term;

static void
read_file(const char *name, char *out, size_t size)
{
    char path[512];
    const char *folder = getenv("FAKE");
    snprintf(path, sizeof(path), "%s/%s", folder ? folder : "/nonexistent", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    close(fd);
}

static const char *
word(const char *name)
{
    const char *at = strstr(mode, name);
    return at != NULL ? at + strlen(name) : NULL;
}

static void
on_usr2(int signo)
{
    (void)signo;
    log_signal_safe("fake: stacks of this worker");
}

static void
on_term(int signo)
{
    (void)signo;
    got_term = 1;
}

static void
conn_end(unsigned i)
{
    close(conns[i].fd);
    conns[i] = conns[--conns_n];
}

/* Returns whether the connection goes on. */
static bool
answer(struct conn *c)
{
    char body[128], head[256];
    int n =
        snprintf(body, sizeof(body), "%u %d %d %s", args->slot, (int)getpid(), (int)getuid(), tag);
    bool is_last = c->is_last || is_draining;
    int m = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", n,
                     is_last ? "Connection: close\r\n" : "", body);
    if (args->access_fd >= 0)
        dprintf(args->access_fd, "access %d\n", (int)getpid());
    if (send(c->fd, head, (size_t)m, MSG_NOSIGNAL) != m)
        return false;
    c->is_used = true;
    char *rest = strstr(c->in, "\r\n\r\n") + 4;
    c->n -= (size_t)(rest - c->in);
    memmove(c->in, rest, c->n + 1);
    c->answer_at = 0;
    return !is_last;
}

static bool
take_request(struct conn *c)
{
    char *end = strstr(c->in, "\r\n\r\n");
    if (end == NULL || c->answer_at != 0)
        return true;
    char *close_word = strcasestr(c->in, "connection: close");
    c->is_last = close_word != NULL && close_word < end;
    if (strncmp(c->in, "GET /slow", 9) == 0) {
        c->answer_at = clock_ns() + SLOW_MS * NS_PER_MS;
        return true;
    }
    return answer(c);
}

static bool
conn_read(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->n, sizeof(c->in) - 1 - c->n, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n <= 0)
        return false;
    c->n += (size_t)n;
    c->in[c->n] = '\0';
    return take_request(c);
}

static void
listener_read(struct listener *l)
{
    while (conns_n < CONNS_MAX) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        conns[conns_n] = (struct conn){ .fd = fd };
        if (conn_read(&conns[conns_n]))
            conns_n++;
        else
            close(fd);
    }
}

static void
start_draining(void)
{
    if (is_draining || word("ignore_drain"))
        return;
    is_draining = true;
    draining_since = clock_ns();
    while (listeners_n > 0) {
        listener_read(&listeners[listeners_n - 1]); /* what is in "a completion" */
        close(listeners[--listeners_n].fd);
    }
}

static void
control_read(void)
{
    struct control_msg msg;
    int fd, err;
    while ((err = control_recv(args->control, &msg, &fd)) == 0) {
        switch (msg.kind) {
        case CONTROL_LISTEN:
            listeners[listeners_n++] = (struct listener){ fd, msg.id };
            if (!word("no_accept"))
                control_send(args->control, CONTROL_LISTENING, msg.id, -1);
            break;
        case CONTROL_UNLISTEN:
            for (unsigned i = 0; i < listeners_n; i++)
                if (listeners[i].id == msg.id) {
                    listener_read(&listeners[i]);
                    close(listeners[i].fd);
                    listeners[i] = listeners[--listeners_n];
                    break;
                }
            break;
        case CONTROL_QUIT:
            is_quitting = !word("ignore_drain");
            /* fall through */
        case CONTROL_DRAIN:
            start_draining();
            break;
        case CONTROL_REOPEN:
            dup2(fd, msg.id);
            close(fd);
            break;
        }
    }
    if (err == -EPIPE)
        start_draining();
}

static void
serve(void)
{
    struct pollfd p[1 + LISTENERS_MAX + CONNS_MAX];
    int64_t drain_at = word("drain_ms=") ? clock_ns() + atoi(word("drain_ms=")) * NS_PER_MS : 0;
    control_send(args->control, CONTROL_READY, 0, -1);
    if (word("mute")) {
        close(args->control);
        is_deaf = true;
    }
    while (!is_quitting && (!is_draining || conns_n > 0)) {
        unsigned n = 0;
        p[n++] = (struct pollfd){ .fd = is_deaf ? -1 : args->control, .events = POLLIN };
        for (unsigned i = 0; i < listeners_n; i++)
            p[n++] = (struct pollfd){ .fd = listeners[i].fd, .events = POLLIN };
        unsigned listeners_were = listeners_n;
        for (unsigned i = 0; i < conns_n; i++)
            p[n++] =
                (struct pollfd){ .fd = conns[i].fd, .events = conns[i].answer_at ? 0 : POLLIN };
        poll(p, n, 10);
        for (unsigned i = conns_n; i-- > 0;) {
            struct conn *c = &conns[i];
            bool goes_on = true;
            if (c->answer_at != 0 && c->answer_at <= clock_ns())
                goes_on = answer(c);
            else if (p[1 + listeners_were + i].revents)
                goes_on = conn_read(c);
            else if (is_draining && c->answer_at == 0 && c->n == 0 &&
                     (c->is_used || clock_ns() - draining_since > NS_PER_S))
                goes_on = conn_read(c) && c->answer_at != 0; /* idle: its last chance */
            if (!goes_on)
                conn_end(i);
        }
        for (unsigned i = 0; i < listeners_n; i++)
            listener_read(&listeners[i]);
        if (!is_deaf)
            control_read();
        bool goes_by_itself = is_deaf || word("goes_by_itself");
        if (got_term == 1 && !goes_by_itself) {
            got_term = 2;
            control_send(args->control, CONTROL_REPLACE, 0, -1);
        }
        if ((got_term && goes_by_itself) || (drain_at != 0 && clock_ns() >= drain_at))
            start_draining();
    }
    if (!is_deaf)
        control_send(args->control, CONTROL_DRAINED, 0, -1);
}

int
worker_run(const struct worker_args *given)
{
    char name[32];
    args = given;
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGTERM, on_term);
    signal(SIGUSR2, on_usr2);
    signal(WORKER_STACKS_SIGNAL, SIG_IGN);
    snprintf(name, sizeof(name), "mode.%u", args->slot);
    read_file("mode", mode, sizeof(mode));
    read_file(name, mode, sizeof(mode));
    read_file("tag", tag, sizeof(tag));
    if (word("boot_ms="))
        for (int64_t until = clock_ns() + atoi(word("boot_ms=")) * NS_PER_MS; clock_ns() < until;)
            usleep(5000);
    if (word("exit=")) {
        fprintf(stderr, "fake: Traceback of slot %u\n", args->slot);
        return atoi(word("exit="));
    }
    if (word("kill=")) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        raise(atoi(word("kill=")));
    }
    while (word("hang"))
        pause();
    serve();
    return EXIT_CODE_OK;
}

/* None that could be imported once. */
int
worker_preload(const struct worker_args *given)
{
    (void)given;
    return EXIT_CODE_APP;
}

/* There is no application that could be checked. */
int
worker_check(const struct worker_args *given)
{
    (void)given;
    return EXIT_CODE_OK;
}

int
main(int argc, char **argv)
{
    enum conf_action action;
    struct conf *conf;
    int err = conf_load(argc, argv, &action, &conf);
    if (err < 0)
        return -err;
    return master_run(
        &(struct master_args){ .conf = conf, .argc = argc, .argv = argv, .exe = argv[0] });
}
