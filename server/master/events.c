/* events.c: which events are told and when, and the children that tell them. What an event is about, and when it is one, is said where
 * it happens: slots.c, watchdog.c, reload.c, upgrade.c, certs.c; exhausted pools and blocked loops are found here, by what workers write down.
 * Owns:  events that wait, and a pipe for each child, on which it says what went wrong. */
#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"
#include "state.h"

enum {
    AT_ONCE_MAX = 4,
    WAITING_MAX = 32,
    EVENT_MAX = 4096, /* bytes: a pipe holds as many at least, so that writing never waits */
    COMMAND_MS = 30 * 1000,
    WEBHOOK_MS = 10 * 1000,
    END_MS = 5 * 1000, /* for all that is on its way when the master ends */
    END_LOOK_MS = 20,
    LOOK_MS = 1000, /* between two looks at what workers write down */
    REPORT_FD = 3,  /* in a child */
    CANNOT_EXECUTE = 126,
};

enum way { BY_COMMAND, BY_WEBHOOK, WAYS };
static const char *const way_keys[] = { "events.command", "events.webhook" };
static const int way_ms[] = { COMMAND_MS, WEBHOOK_MS };

/* An event on its way, or waiting for its turn. */
struct telling {
    struct list node;
    enum way way;
    enum conf_event kind;
    pid_t pid;
    int report; /* the child's last words, or -1 */
    int64_t deadline_ns;
    bool is_late;
    size_t n;
    char text[]; /* JSON and a newline */
};

struct events {
    struct list waiting, running;
    unsigned waiting_n, running_n;
    struct {
        int64_t told_ns; /* 0 = never */
        unsigned suppressed;
    } kinds[EVENTS];
    int64_t failed_ns[WAYS]; /* when a failure was logged last */
    unsigned failed_unsaid[WAYS];
    int64_t look_ns;  /* the next at what workers write down; 0 = none was taken */
    uint64_t refused; /* by all pools, when that was told last */
};

static bool
is_wanted(const struct conf *conf, enum conf_event kind)
{
    return (conf->events_command.n > 0 || conf->events_webhook != NULL) &&
           (conf->events_kinds & 1U << kind) != 0;
}

void
events_open(struct master *m)
{
    m->events = calloc(1, sizeof(*m->events));
    if (m->events == NULL) {
        log_error("no memory for events.command and events.webhook: nothing is told");
        return;
    }
    list_init(&m->events->waiting);
    list_init(&m->events->running);
}

static void
telling_free(struct telling *t)
{
    list_del(&t->node);
    if (t->report >= 0)
        close(t->report);
    free(t);
}

/* --- what is told ------------------------------------------------------------------------------ */

bool
events_may(const struct master *m, enum conf_event kind)
{
    const struct conf *conf = m->now.conf;
    if (m->events == NULL || !is_wanted(conf, kind))
        return false;
    int64_t told_ns = m->events->kinds[kind].told_ns;
    return told_ns == 0 || clock_ns() - told_ns >= conf->events_interval_ms * NS_PER_MS;
}

/* RFC 3339, in UTC. */
static void
time_text(char *out, size_t size)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    char seconds[32];
    strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, size, "%s.%03ldZ", seconds, now.tv_nsec / (long)NS_PER_MS);
}

static int
write_event(const struct master *m, enum conf_event kind, const struct child *c,
            const struct event_detail *details, const char *what, struct buf *out)
{
    char text[HOST_NAME_MAX + 1] = "";
    struct json j = json_into(out);
    json_begin(&j, '{');
    json_key(&j, "kind"), json_string(&j, conf_event_word(kind));
    time_text(text, sizeof(text));
    json_key(&j, "time"), json_string(&j, text);
    if (gethostname(text, sizeof(text) - 1) < 0)
        text[0] = '\0';
    json_key(&j, "host"), json_string(&j, text);
    if (m->now.conf->name != NULL)
        json_key(&j, "name"), json_string(&j, m->now.conf->name);
    json_key(&j, "server_pid"), json_int(&j, getpid());
    if (c != NULL) {
        json_key(&j, "worker"), json_int(&j, c->slot);
        json_key(&j, "pid"), json_int(&j, c->pid);
    }
    json_key(&j, "what"), json_string(&j, what);
    json_key(&j, "details");
    json_begin(&j, '{');
    for (const struct event_detail *d = details; d != NULL && d->name != NULL; d++) {
        json_key(&j, d->name);
        if (d->text != NULL)
            json_string(&j, d->text);
        else
            json_int(&j, d->n);
    }
    json_end(&j, '}');
    json_key(&j, "suppressed"), json_int(&j, m->events->kinds[kind].suppressed);
    json_end(&j, '}');
    return j.is_lost || buf_puts(out, "\n") < 0 || out->n > EVENT_MAX ? -1 : 0;
}

static bool
queue(struct events *e, enum way way, enum conf_event kind, const struct buf *text)
{
    struct telling *t = e->waiting_n < WAITING_MAX ? calloc(1, sizeof(*t) + text->n) : NULL;
    if (t == NULL)
        return false;
    t->way = way;
    t->kind = kind;
    t->report = -1;
    t->n = text->n;
    memcpy(t->text, text->p, text->n);
    list_add_tail(&e->waiting, &t->node);
    e->waiting_n++;
    return true;
}

void
events_note(struct master *m, enum conf_event kind, const struct child *c,
            const struct event_detail *details, const char *format, ...)
{
    struct events *e = m->events;
    const struct conf *conf = m->now.conf;
    if (e == NULL || !is_wanted(conf, kind))
        return;
    char what[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    BUF_OWNED struct buf text = { 0 };
    bool is_told = events_may(m, kind) && write_event(m, kind, c, details, what, &text) == 0;
    if (is_told) {
        bool is_queued = conf->events_command.n > 0 && queue(e, BY_COMMAND, kind, &text);
        is_queued |= conf->events_webhook != NULL && queue(e, BY_WEBHOOK, kind, &text);
        is_told = is_queued;
    }
    if (!is_told) {
        e->kinds[kind].suppressed++;
        return;
    }
    e->kinds[kind].told_ns = clock_ns();
    e->kinds[kind].suppressed = 0;
}

/* --- the children ------------------------------------------------------------------------------ */

/* Standard input is the event; the report is REPORT_FD; everything else is standard error. */
static _Noreturn void
run(struct master *m, const struct telling *t, int event, int report)
{
    char why[256] = "";
    int code = CANNOT_EXECUTE;
    const struct conf *conf = m->now.conf;
    (void)setpgid(0, 0);                              /* so that what it starts is ended with it */
    (void)alarm((unsigned)way_ms[t->way] / 1000 + 5); /* should the master be gone by then */
    (void)log_set_ring(NULL, -1);
    if (dup2(event, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 ||
        (report != REPORT_FD && dup3(report, REPORT_FD, O_CLOEXEC) < 0))
        _exit(code);
    (void)close_range(REPORT_FD + 1, ~0U, 0);
    int err = privileges_drop(&m->now.privileges);
    signals_reset();
    if (err < 0) {
        snprintf(why, sizeof(why), "cannot become %s: %s",
                 conf->user != NULL ? conf->user : conf->group, strerror(-err));
    } else if (t->way == BY_WEBHOOK) {
        (void)signal(SIGPIPE, SIG_IGN);
        if (webhook_post(conf->events_webhook, (struct slice){ t->text, t->n }, why, sizeof(why)) ==
            0)
            _exit(EXIT_CODE_OK);
        code = EXIT_CODE_SYSTEM;
    } else {
        const struct conf_strings *words = &conf->events_command;
        char **argv = calloc(words->n + 1, sizeof(*argv));
        if (argv != NULL) {
            memcpy(argv, words->v, words->n * sizeof(*argv));
            execvp(argv[0], argv);
        }
        snprintf(why, sizeof(why), "cannot execute %s: %s", words->v[0], strerror(errno));
    }
    ssize_t n = write(REPORT_FD, why, strlen(why));
    _exit(n < 0 ? CANNOT_EXECUTE : code);
}

/* Once an interval: who cannot be told is told of nothing, and the log is not the place to repeat it. */
static void
say_failed(struct master *m, const struct telling *t, const char *why)
{
    struct events *e = m->events;
    int64_t now_ns = clock_ns(), said_ns = e->failed_ns[t->way];
    if (said_ns != 0 && now_ns - said_ns < m->now.conf->events_interval_ms * NS_PER_MS) {
        e->failed_unsaid[t->way]++;
        return;
    }
    char more[64] = "";
    if (e->failed_unsaid[t->way] > 0)
        snprintf(more, sizeof(more), " (%u more since the last such line)",
                 e->failed_unsaid[t->way]);
    log_warning("%s: an event (%s) was not told: %s%s", way_keys[t->way], conf_event_word(t->kind),
                why, more);
    e->failed_ns[t->way] = now_ns;
    e->failed_unsaid[t->way] = 0;
}

/* Returns 0 or -errno. */
static int
fork_one(struct master *m, struct telling *t)
{
    int event[2] = { -1, -1 }, report[2] = { -1, -1 }, err = 0;
    if (pipe2(event, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0 ||
        write(event[1], t->text, t->n) != (ssize_t)t->n || fcntl(event[0], F_SETFL, 0) < 0)
        err = errno != 0 ? -errno : -EIO;
    if (err == 0) {
        fflush(NULL);
        log_drain_hold(m->logs.drain);
        t->pid = fork();
        if (t->pid == 0)
            run(m, t, event[0], report[1]);
        err = t->pid < 0 ? -errno : 0;
        log_drain_release(m->logs.drain);
    }
    t->report = err == 0 ? fd_take(&report[0]) : -1;
    const int fds[] = { event[0], event[1], report[0], report[1] };
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return err;
}

static void
begin(struct master *m, struct telling *t)
{
    struct events *e = m->events;
    int err;
    list_del(&t->node);
    list_init(&t->node);
    e->waiting_n--;
    /* A reload may have taken it away meanwhile. */
    bool is_there = t->way == BY_COMMAND ? m->now.conf->events_command.n > 0
                                         : m->now.conf->events_webhook != NULL;
    if (!is_there) {
        telling_free(t);
    } else if ((err = fork_one(m, t)) < 0) {
        say_failed(m, t, strerror(-err));
        telling_free(t);
    } else {
        t->deadline_ns = clock_ns() + way_ms[t->way] * NS_PER_MS;
        list_add_tail(&e->running, &t->node);
        e->running_n++;
    }
}

#define EACH(t, list)                                                                              \
    for (struct telling *t = CONTAINER_OF((list)->next, struct telling, node),                     \
                        *t##_next = CONTAINER_OF(t->node.next, struct telling, node);              \
         &t->node != (list);                                                                       \
         t = t##_next, t##_next = CONTAINER_OF(t->node.next, struct telling, node))

static void
end(struct telling *t)
{
    t->is_late = true;
    t->deadline_ns = 0;
    if (kill(-t->pid, SIGKILL) < 0)
        kill(t->pid, SIGKILL);
}

void
events_reaped(struct master *m, pid_t pid, int status)
{
    struct events *e = m->events;
    if (e == NULL)
        return;
    EACH(t, &e->running) {
        if (t->pid != pid)
            continue;
        char why[256];
        ssize_t n = read(t->report, why, sizeof(why) - 1);
        if (t->is_late)
            snprintf(why, sizeof(why), "it took more than %d s, and was ended",
                     way_ms[t->way] / 1000);
        else if (n > 0)
            why[n] = '\0';
        else if (WIFSIGNALED(status))
            snprintf(why, sizeof(why), "it was ended by signal %d", WTERMSIG(status));
        else
            snprintf(why, sizeof(why), "it ended with exit code %d", WEXITSTATUS(status));
        if (t->is_late || status != 0)
            say_failed(m, t, why);
        telling_free(t);
        e->running_n--;
        return;
    }
}

void
events_forget(struct master *m)
{
    if (m->events == NULL)
        return;
    EACH(t, &m->events->running)
        close(t->report);
}

/* --- what workers write down --------------------------------------------------------------------- */

/* Requests that all workers have refused so far, for want of a thread or of a place to wait. */
static uint64_t
count_refused(const struct master *m)
{
    uint64_t n = 0;
    METRICS_EACH(b, m->metrics) {
        const struct metrics_crew *crew = &b->pools[METRICS_POOL_REQUESTS].crew;
        n += metrics_get(&crew->refused_full) + metrics_get(&crew->refused_timeout) +
             metrics_get(&b->loop.gate_full) + metrics_get(&b->loop.gate_timeout);
    }
    return n;
}

static void
look_at_pools(struct master *m)
{
    struct events *e = m->events;
    uint64_t refused = count_refused(m);
    /* What was refused before somebody wanted to know is no news. */
    if (e->look_ns == 0 || !is_wanted(m->now.conf, EVENT_POOL_EXHAUSTED))
        e->refused = refused;
    if (refused == e->refused || !events_may(m, EVENT_POOL_EXHAUSTED))
        return;
    int64_t n = (int64_t)(refused - e->refused);
    e->refused = refused;
    events_note(m, EVENT_POOL_EXHAUSTED, NULL, EVENT_DETAILS({ "refused", .n = n }),
                "%lld request%s answered with 503: no thread was free (sync.queue, "
                "sync.queue_timeout), or too many were in hand (limits.queue, "
                "limits.queue_timeout)",
                (long long)n, n == 1 ? " was" : "s were");
}

static void
look_at_loop(struct master *m, struct child *c)
{
    struct metrics_blocked b;
    if (c->metrics == NULL || !metrics_read_blocked(c->metrics, &c->blocked, &b) ||
        m->events->look_ns == 0)
        return; /* at the first look, as above */
    int64_t held_ns = (int64_t)metrics_get(&b.held_ns);
    events_note(
        m, EVENT_LOOP_BLOCKED, c,
        EVENT_DETAILS({ "blocked_ms", .n = held_ns / NS_PER_MS }, { "request", .text = b.request },
                      { "place", .text = b.place }, { "cure", .text = b.cure }),
        "the event loop of worker %u is blocked for %.1f s, and with it all of its requests: %s",
        c->slot, (double)held_ns / NS_PER_S, b.by);
}

static void
look(struct master *m, int64_t now_ns)
{
    struct events *e = m->events;
    if (!is_wanted(m->now.conf, EVENT_POOL_EXHAUSTED) &&
        !is_wanted(m->now.conf, EVENT_LOOP_BLOCKED)) {
        e->look_ns = 0;
        return;
    }
    if (e->look_ns > now_ns)
        return;
    look_at_pools(m);
    CHILDREN_EACH(c, m)
        look_at_loop(m, c); /* one that is not wanted is only passed over */
    e->look_ns = now_ns + LOOK_MS * NS_PER_MS;
}

/* --- the loop ------------------------------------------------------------------------------------ */

void
events_tick(struct master *m, int64_t now_ns)
{
    struct events *e = m->events;
    if (e == NULL)
        return;
    look(m, now_ns);
    EACH(t, &e->running)
        if (t->deadline_ns != 0 && t->deadline_ns <= now_ns)
            end(t);
    while (e->running_n < AT_ONCE_MAX && !list_is_empty(&e->waiting))
        begin(m, CONTAINER_OF(e->waiting.next, struct telling, node));
}

int64_t
events_next_ns(const struct master *m)
{
    const struct events *e = m->events;
    int64_t next = 0;
    if (e == NULL)
        return 0;
    EACH(t, &m->events->running)
        next = sooner(next, t->deadline_ns);
    return sooner(next, e->look_ns);
}

void
events_close(struct master *m)
{
    struct events *e = m->events;
    if (e == NULL)
        return;
    int64_t until_ns = clock_ns() + END_MS * NS_PER_MS;
    for (;;) {
        while (e->running_n < AT_ONCE_MAX && !list_is_empty(&e->waiting))
            begin(m, CONTAINER_OF(e->waiting.next, struct telling, node));
        children_reap(m);
        if (list_is_empty(&e->running))
            break;
        if (until_ns != 0 && clock_ns() >= until_ns) {
            until_ns = 0;
            EACH(t, &e->waiting)
                telling_free(t);
            EACH(t, &e->running)
                end(t);
        }
        usleep(END_LOOK_MS * 1000);
    }
    free(e);
    m->events = NULL;
}
