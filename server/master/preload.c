/* preload.c: `preload`: the process that imports the application for a configuration, and forks its workers, seen from the master.
 *
 *   a worker is to be started ─> IMPORTS ─ CONTROL_READY ─> READY ─ CONTROL_FORK, CONTROL_FORKED, one worker at a time
 *
 * It is forked like a worker, when the first worker of a configuration is to be started, and lives as long as that configuration: a reload
 * makes another one, which imports the new code. Workers that it forks become children of this process (worker/preload.c), so that all the rest
 * of the master knows no difference. While it imports, workers wait for it as BOOTING ones, without a pid. If it ends before they are forked, they have
 * ended like it: an import that fails is what it would be without preload, for a start, a reload and a crash loop alike.
 *
 * One that dies later is told of and replaced at once, so that the next worker need not wait for an import; the workers that it has
 * forked do not notice. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

enum {
    FORK_MS = 30 * 1000, /* to fork one, with the application's os.register_at_fork() */
    LEAVE_MS = 1000,     /* from the end of its stream to SIGKILL */
    DUMP_MS = 200,       /* from the signal that asks for stacks to SIGKILL */
    /* from a death to the next import; doubled with each in a row. A signal to the whole group may mean the end of all */
    AGAIN_MS = 200,
    AGAIN_MAX_MS = 60 * 1000,
};

static struct preload *
find(const struct master *m, unsigned generation)
{
    PRELOADS_EACH(p, m)
        if (p->generation == generation && p->state <= PRELOAD_READY)
            return p;
    return NULL;
}

const struct preload *
preload_now(const struct master *m)
{
    return find(m, m->now.number);
}

/* --- start and end -------------------------------------------------------------------------------- */

static int
start(struct master *m, const struct generation *g)
{
    int ends[2];
    struct preload *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    /* Workers are its grandchildren, until the process between them ends. */
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        int err = errno;
        free(p);
        return -err;
    }
    list_init(&p->node);
    p->control = ends[0];
    p->generation = g->number;
    p->access_fd = g->conf->access_log ? m->logs.access_fd : -1;
    p->certs = m->certs.version;
    p->started_ns = clock_ns();
    p->log = log_drain_add(m->logs.drain, "preload", g->number, NULL);
    list_add_tail(&m->preloads, &p->node); /* so that the child closes our end */
    struct worker_args args = { .control = ends[1], .asks = -1 };
    int err = p->log == NULL ? -ENOMEM : child_fork(m, g, &args, true, NULL, p->log);
    close(ends[1]);
    if (err < 0) {
        log_drain_end(m->logs.drain, p->log);
        list_del(&p->node);
        close(p->control);
        free(p);
        return err;
    }
    p->pid = (pid_t)err;
    int64_t startup_ms = g->conf->timeout_startup_ms;
    p->deadline_ns = startup_ms > 0 ? p->started_ns + startup_ms * NS_PER_MS : 0;
    log_debug("preload: process %d imports %s", (int)p->pid, g->conf->app);
    return 0;
}

static void
end(struct preload *p)
{
    if (p->state > PRELOAD_READY)
        return;
    if (p->state == PRELOAD_IMPORTS)
        kill(p->pid, SIGTERM); /* it does not read */
    p->state = PRELOAD_LEAVING;
    p->deadline_ns = clock_ns() + LEAVE_MS * NS_PER_MS;
    if (p->asked == NULL && p->control >= 0) /* what it forks just now is to be told of */
        close(fd_take(&p->control));
}

/* Asks for its stacks and kills it shortly after. */
static void
end_now(struct preload *p)
{
    kill(p->pid, WORKER_STACKS_SIGNAL);
    p->state = PRELOAD_DUMPING;
    p->deadline_ns = clock_ns() + DUMP_MS * NS_PER_MS;
}

/* --- what it says --------------------------------------------------------------------------------- */

/* Workers that it should have forked. They are as dead as it is. */
static void
drop_waiting(struct master *m, const struct preload *p, int status)
{
    bool is_one = true;
    while (is_one) { /* from the beginning each time: one's end may be that of others */
        is_one = false;
        CHILDREN_EACH(c, m)
            if (c->forker == p) {
                child_unborn(m, c, status);
                is_one = true;
                break;
            }
    }
}

static void
said_forked(struct master *m, struct preload *p, int32_t pid)
{
    struct child *c = p->asked;
    p->asked = NULL;
    if (p->state == PRELOAD_READY)
        p->deadline_ns = 0;
    else if (p->control >= 0)
        close(fd_take(&p->control));
    if (c == NULL)
        return;
    if (pid > 0) {
        child_born(c, (pid_t)pid);
        return;
    }
    log_error("cannot start worker %u: preload: process %d cannot fork: %s", c->slot, (int)p->pid,
              strerror(-pid));
    child_unborn(m, c, W_EXITCODE(EXIT_CODE_APP, 0));
}

static void
read_one(struct master *m, struct preload *p)
{
    struct control_msg msg;
    int fd, err = -EAGAIN;
    while (p->control >= 0 && (err = control_recv(p->control, &msg, &fd)) == 0) {
        if (fd >= 0)
            close(fd); /* it has nothing to give */
        if (msg.kind == CONTROL_READY && p->state == PRELOAD_IMPORTS) {
            p->state = PRELOAD_READY;
            p->deadline_ns = 0;
            m->preload_failures = 0;
        } else if (msg.kind == CONTROL_FORKED) {
            said_forked(m, p, msg.id);
        }
    }
    if (p->control >= 0 && err != -EAGAIN && err != -EBADMSG)
        close(fd_take(&p->control));
}

void
preload_read(struct master *m)
{
    PRELOADS_EACH(p, m)
        read_one(m, p);
}

/* --- its death ------------------------------------------------------------------------------------ */

static void
describe(int status, char *out, size_t size)
{
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(out, size, "signal %d (%s)", WTERMSIG(status), name != NULL ? name : "real-time");
    } else {
        snprintf(out, size, "exit code %d", WEXITSTATUS(status));
    }
}

static void
died(struct master *m, const struct preload *p, int status)
{
    char how[64];
    describe(status, how, sizeof(how));
    if (p->state == PRELOAD_LEAVING || m->stop.state != STOP_NONE) {
        log_debug("preload: process %d left", (int)p->pid);
        return;
    }
    bool is_now = p->generation == m->now.number, is_ready = p->state == PRELOAD_READY;
    int64_t wait_ms = AGAIN_MS;
    for (unsigned i = 0; i < m->preload_failures && wait_ms < AGAIN_MAX_MS; i++)
        wait_ms *= 2;
    m->preload_failures++;
    bool is_told = WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
    log_line(is_told ? LOG_WARNING : LOG_ERROR, "preload: process %d, which %s, died: %s%s",
             (int)p->pid, is_ready ? "forks workers" : "imports the application", how,
             is_ready && is_now ? "; the workers go on, and another imports it" : "");
    if (!is_told)
        events_note(
            m, EVENT_WORKER_DIED, NULL,
            EVENT_DETAILS({ WIFSIGNALED(status) ? "signal" : "exit_code",
                            .n = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) },
                          { "preload_pid", .n = p->pid }),
            "process %d, which imports the application for the workers (preload), died: %s",
            (int)p->pid, how);
    /* An import that fails while nobody waits for it is tried again when a worker is to be started. */
    if (is_now && is_ready)
        m->preload_at_ns = clock_ns() + wait_ms * NS_PER_MS;
}

bool
preload_reaped(struct master *m, pid_t pid, int status)
{
    PRELOADS_EACH(p, m) {
        if (p->pid != pid)
            continue;
        list_del(&p->node);
        died(m, p, status);
        drop_waiting(m, p, status);
        if (p->control >= 0)
            close(p->control);
        log_drain_end(m->logs.drain, p->log);
        free(p);
        return true;
    }
    return false;
}

/* --- what is due ---------------------------------------------------------------------------------- */

/* The oldest that waits for it and is still wanted. Those that are not are dropped. */
static struct child *
next_worker(struct master *m, const struct preload *p)
{
    for (;;) {
        struct child *first = NULL;
        CHILDREN_EACH(c, m)
            if (c->forker == p && c != p->asked) {
                first = c;
                break;
            }
        if (first == NULL || first->state == CHILD_BOOTING)
            return first;
        child_unborn(m, first, W_EXITCODE(EXIT_CODE_OK, 0));
    }
}

static void
ask(struct master *m, struct preload *p, struct child *c)
{
    const struct control_msg msg = {
        .kind = CONTROL_FORK,
        .id = (int32_t)c->slot,
        .block = c->metrics != NULL ? (int32_t)(c->metrics - m->metrics->blocks) : -1,
    };
    const int fds[CONTROL_FDS_MAX] = { c->unborn.control, c->unborn.log, c->unborn.asks };
    int err = control_send_fds(p->control, &msg, fds, c->unborn.asks >= 0 ? 3 : 2);
    if (err < 0) { /* the stream's end: its death will tell */
        log_debug("preload: process %d cannot be asked: %s", (int)p->pid, strerror(-err));
        return;
    }
    p->asked = c;
    p->deadline_ns = clock_ns() + FORK_MS * NS_PER_MS;
}

int
preload_ask(struct master *m, const struct generation *g, struct child *c)
{
    int err = find(m, g->number) != NULL ? 0 : start(m, g);
    if (err < 0) {
        log_error("cannot start worker %u: preload: the process that imports the application "
                  "cannot be started: %s",
                  c->slot, strerror(-err));
        return err;
    }
    struct preload *p = find(m, g->number);
    c->forker = p;
    c->access_fd = p->access_fd; /* what it inherits */
    c->certs = p->certs;
    if (p->state == PRELOAD_READY && p->asked == NULL)
        ask(m, p, c);
    return 0;
}

static bool
is_needed(const struct master *m, const struct preload *p)
{
    if (m->stop.state != STOP_NONE)
        return false;
    if (p->generation == m->now.number ||
        (m->reload.state == RELOAD_TRYING && p->generation == m->reload.next.number))
        return true;
    CHILDREN_EACH(c, m)
        if (c->forker == p)
            return true;
    return false;
}

static void
pass_deadline(struct preload *p)
{
    p->deadline_ns = 0;
    switch (p->state) {
    case PRELOAD_IMPORTS:
        log_error("preload: process %d has not imported the application after %.1f s "
                  "(timeouts.startup): it is killed; its stacks follow",
                  (int)p->pid, (double)(clock_ns() - p->started_ns) / NS_PER_S);
        end_now(p);
        break;
    case PRELOAD_READY:
        log_error("preload: process %d does not fork worker %u: it is killed; its stacks follow",
                  (int)p->pid, p->asked != NULL ? p->asked->slot : 0);
        end_now(p);
        break;
    case PRELOAD_LEAVING:
    case PRELOAD_DUMPING:
        kill(p->pid, SIGKILL);
        p->state = PRELOAD_KILLED;
        break;
    case PRELOAD_KILLED:
        break;
    }
}

/* One that nobody waits for, in place of one that has died. */
static void
start_again(struct master *m)
{
    m->preload_at_ns = 0;
    if (m->stop.state != STOP_NONE || !m->now.conf->preload || find(m, m->now.number) != NULL)
        return;
    int err = start(m, &m->now);
    if (err < 0)
        log_error("preload: the process that imports the application cannot be started: %s; the "
                  "next worker tries it again",
                  strerror(-err));
}

void
preload_tick(struct master *m, int64_t now_ns)
{
    PRELOADS_EACH(p, m) {
        struct child *c = next_worker(m, p); /* first: those that it drops need p no more */
        if (!is_needed(m, p))
            end(p);
        if (p->deadline_ns != 0 && p->deadline_ns <= now_ns)
            pass_deadline(p);
        if (p->state == PRELOAD_READY && p->asked == NULL && p->control >= 0 && c != NULL)
            ask(m, p, c);
    }
    if (m->preload_at_ns != 0 && m->preload_at_ns <= now_ns)
        start_again(m);
}

int64_t
preload_next_ns(const struct master *m)
{
    int64_t next = m->preload_at_ns;
    PRELOADS_EACH(p, m)
        next = sooner(next, p->deadline_ns);
    return next;
}

void
preload_forget(const struct master *m)
{
    PRELOADS_EACH(p, m)
        if (p->control >= 0)
            close(p->control);
}
