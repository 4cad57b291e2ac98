/* child.c: one worker process, seen from the master: fork, the words exchanged, deadlines, the
 * end. Leaves to others: what a death or a readiness means for the slot (slots.c), what it
 * should accept from (coverage.c). Owns:  our end of the control socket. A struct child lives
 * until its process is reaped. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

enum {
    READ_MAX = 256, /* messages of one worker in a turn: a mad one must not block the others */
    ACCEPT_MS = 10 * 1000,   /* from ready to accepting, at least */
    BOOTING_LEAVE_MS = 1000, /* for a worker told to go before it was ready: it has no request */
    ASKED_MS = 100, /* after it asked to go: a signal to the whole group may mean the end of all */
    DUMP_MS = 200,  /* from SIGUSR2 to SIGKILL */
    /* behind timeouts.graceful: the worker cancels its requests then, and lifespan.shutdown comes after them */
    ENDING_MS = 3000,
    SILENT_MS = 2000, /* a worker that closed its control socket is expected to be gone by then */
};

/* Counters of coverage builds, which _exit() would lose. */
extern void __gcov_dump(void) __attribute__((weak));

static void
close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void
close_ends(const struct child *c)
{
    close_fd(c->control);
    close_fd(c->asks);
    close_fd(c->unborn.control);
    close_fd(c->unborn.asks);
    close_fd(c->unborn.log);
}

/* One that is not forked yet gets none: kill(0) would be the whole group's. */
static void
send_signal(const struct child *c, int signal_number)
{
    if (c->pid > 0)
        kill(c->pid, signal_number);
}

void
child_to(struct child *c, enum child_state state)
{
    static const enum metrics_state shown[] = {
        [CHILD_BOOTING] = METRICS_BOOTING, [CHILD_READY] = METRICS_READY,
        [CHILD_LEAVING] = METRICS_LEAVING, [CHILD_DUMPING] = METRICS_KILLED,
        [CHILD_KILLED] = METRICS_KILLED,
    };
    c->state = state;
    if (c->metrics != NULL)
        c->metrics->worker.state = shown[state];
}

/* The child's side of fork(). Drops all that is the master's: a control socket of a sibling held
 * here would hide the master's death from that sibling, a listening socket would stay open when
 * the master closes it. */
static _Noreturn void
run(struct master *m, const struct generation *g, struct worker_args args, bool is_preload,
    struct metrics_block *metrics, const struct log_source *log)
{
    log_drain_become(m->logs.drain, log);
    metrics_begin(m->metrics, metrics);
    close(m->signal_fd);
    close(m->metrics_fd);
    CHILDREN_EACH(c, m)
        close_ends(c);
    preload_forget(m);
    sockets_forget(&m->sockets);
    health_forget(m->health);
    ctl_forget(m);
    events_forget(m);
    notify_close(&m->notify);
    watch_close(m->watch);
    if (m->upgrade.channel >= 0)
        close(m->upgrade.channel);
    handover_forget(&m->upgrade.handover);
    if (m->reload.state == RELOAD_TRYING)
        sockets_change_forget(&m->reload.change);
    /* What a replacement that is tried for a reload prints goes where the new configuration says;
     * the master's lines, and those that it writes for the worker, do not yet. */
    int code = g->number != m->now.number ? -logs_apply(&m->logs, g->conf) : EXIT_CODE_OK;
    logs_form(g->conf, is_preload ? LOG_NO_SLOT : (int)args.slot);
    if (m->logs.saved_stderr >= 0)
        close(m->logs.saved_stderr);
    int err = privileges_drop(&g->privileges);
    if (err < 0) {
        log_operator("worker %u: cannot become %s: %s", args.slot,
                     g->conf->user != NULL ? g->conf->user : g->conf->group, strerror(-err));
        code = EXIT_CODE_SYSTEM;
    }
    signals_reset();
    tls_tickets_protect(m->certs.tickets);
    if (m->certs.fd >= 0)
        close(m->certs.fd);
    if (code == EXIT_CODE_OK) {
        args.conf = g->conf;
        args.generation = g->number;
        args.access_fd = m->logs.access_fd;
        args.tls = g->tls;
        args.tickets = m->certs.tickets;
        args.exe = m->args->exe;
        args.argc = m->args->argc;
        args.argv = m->args->argv;
        code = is_preload ? worker_preload(&args) : worker_run(&args);
    }
    fflush(NULL);
    if (__gcov_dump != NULL)
        __gcov_dump();
    /* LeakSanitizer looks for leaks in the master alone: here it would wait for the thread of the logs, which fork() did not copy. */
    _exit(code);
}

pid_t
child_fork(struct master *m, const struct generation *g, const struct worker_args *args,
           bool is_preload, struct metrics_block *metrics, const struct log_source *log)
{
    fflush(NULL); /* what stdio holds would be written twice */
    log_drain_hold(m->logs.drain);
    pid_t pid = fork();
    if (pid == 0)
        run(m, g, *args, is_preload, metrics, log);
    int err = errno;
    log_drain_release(m->logs.drain);
    return pid < 0 ? -err : pid;
}

/* Its process is there. */
static void
begin(struct child *c, pid_t pid)
{
    c->pid = pid;
    c->forker = NULL;
    close_fd(fd_take(&c->unborn.control));
    close_fd(fd_take(&c->unborn.asks));
    close_fd(fd_take(&c->unborn.log));
    if (c->metrics != NULL)
        c->metrics->worker.pid = pid;
    if (c->startup_ms > 0 && c->state == CHILD_BOOTING)
        c->deadline_ns = clock_ns() + c->startup_ms * NS_PER_MS;
    log_debug("worker %u (pid %d) started", c->slot, (int)pid);
}

int
child_start(struct master *m, unsigned slot, const struct generation *g, struct child **out)
{
    int ends[2], asks[2] = { -1, -1 };
    struct child *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    list_init(&c->node);
    c->unborn.control = c->unborn.asks = c->unborn.log = -1;
    c->log = log_drain_add(m->logs.drain, "worker", slot, g->conf->preload ? &c->unborn.log : NULL);
    if (c->log == NULL) {
        free(c);
        log_error("cannot start worker %u: no memory for its log lines", slot);
        return -ENOMEM;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        int err = errno;
        log_drain_end(m->logs.drain, c->log);
        close_fd(c->unborn.log);
        free(c);
        log_error("cannot start worker %u: no control socket: %s", slot, strerror(err));
        return -err;
    }
    if (conf_asks_workers(g->conf) &&
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, asks) < 0)
        log_warning("worker %u cannot be asked by ringcornctl: %s", slot, strerror(errno));
    c->control = ends[0];
    c->asks = asks[0];
    c->unborn.control = ends[1];
    c->unborn.asks = asks[1];
    c->slot = slot;
    c->generation = g->number;
    c->certs = m->certs.version;
    c->startup_ms = g->conf->timeout_startup_ms;
    /* Linked before the fork, so that the child closes this end with all the others. */
    list_add_tail(&m->children, &c->node);
    c->started_ns = clock_ns();
    c->metrics = metrics_take(m->metrics, slot, g->number, c->started_ns);
    if (c->metrics != NULL)
        c->blocked = c->metrics->blocked.number; /* what another of the slot has seen is no news */
    c->access_fd = g->conf->access_log ? m->logs.access_fd : -1;
    child_to(c, CHILD_BOOTING);
    int err;
    if (g->conf->preload) {
        err = preload_ask(m, g, c);
    } else {
        struct worker_args args = { .slot = slot, .control = ends[1], .asks = asks[1] };
        /* The child's to use, and not to close with what is the master's. */
        c->unborn.control = c->unborn.asks = -1;
        err = child_fork(m, g, &args, false, c->metrics, c->log);
        c->unborn.control = ends[1];
        c->unborn.asks = asks[1];
        if (err < 0)
            log_error("cannot start worker %u: fork: %s", slot, strerror(-err));
        else
            begin(c, (pid_t)err);
    }
    if (err < 0) {
        metrics_give(c->metrics, 0, 0);
        child_free(m, c);
        return err;
    }
    ctl_watch(m, c);
    *out = c;
    return 0;
}

void
child_born(struct child *c, pid_t pid)
{
    begin(c, pid);
    if (c->state == CHILD_LEAVING) /* it was told to go meanwhile */
        kill(pid, SIGTERM);
    else if (c->state != CHILD_BOOTING)
        kill(pid, SIGKILL);
}

void
child_unborn(struct master *m, struct child *c, int status)
{
    slots_died(m, c, status);
    metrics_give(c->metrics, 0, 0);
    child_free(m, c);
}

void
child_count_restart(const struct master *m, unsigned slot, enum metrics_restart why)
{
    metrics_add(&m->metrics->master.restarts[slot].why[why], 1);
}

void
child_free(struct master *m, struct child *c)
{
    log_drain_end(m->logs.drain, c->log);
    ctl_unwatch(m, c);
    close_ends(c);
    list_del(&c->node);
    free(c->told);
    free(c);
}

bool
child_is_accepting(const struct child *c)
{
    for (unsigned i = 0; i < c->told_n; i++)
        if (!c->told[i].is_accepting)
            return false;
    return c->state == CHILD_READY && c->told_n > 0;
}

int64_t
child_leave_by(const struct master *m)
{
    int64_t ms = m->now.conf->timeout_graceful_ms;
    return ms > 0 ? clock_ns() + (ms + ENDING_MS) * NS_PER_MS : 0;
}

/* For its hooks. */
static enum control_why
why_it_leaves(const struct master *m, const struct child *c)
{
    if (m->stop.is_handed_over)
        return CONTROL_WHY_UPGRADE;
    if (m->stop.state != STOP_NONE)
        return CONTROL_WHY_STOP;
    if (c->generation != m->now.number)
        return CONTROL_WHY_RELOAD;
    return c->slot >= m->wanted ? CONTROL_WHY_SCALE : CONTROL_WHY_RECYCLE;
}

void
child_leave(struct master *m, struct child *c, enum control_kind kind)
{
    if (c->state == CHILD_DUMPING || c->state == CHILD_KILLED)
        return;
    bool is_told =
        c->control >= 0 && control_send(c->control, kind, (int32_t)why_it_leaves(m, c), -1) == 0;
    if (c->state == CHILD_BOOTING) {
        c->deadline_ns = clock_ns() + BOOTING_LEAVE_MS * NS_PER_MS;
        is_told = false; /* it imports the application and does not read */
    } else if (c->state == CHILD_READY) {
        c->deadline_ns = child_leave_by(m);
    }
    if (!is_told)
        send_signal(c, SIGTERM);
    child_to(c, CHILD_LEAVING);
    c->told_n = 0; /* it stops accepting by itself */
}

void
child_end_now(struct child *c)
{
    if (c->state == CHILD_DUMPING || c->state == CHILD_KILLED)
        return;
    if (c->was_ready || c->state == CHILD_BOOTING) { /* what it did until now is worth to know */
        send_signal(c, SIGUSR2);
        send_signal(c, WORKER_STACKS_SIGNAL);
    }
    child_to(c, CHILD_DUMPING);
    c->deadline_ns = clock_ns() + DUMP_MS * NS_PER_MS;
}

void
child_tick(struct master *m, struct child *c, int64_t now_ns)
{
    if (c->deadline_ns == 0 || c->deadline_ns > now_ns)
        return;
    c->deadline_ns = 0;
    switch (c->state) {
    case CHILD_BOOTING:
        log_error("worker %u (pid %d) is not ready after %.1f s (timeouts.startup): it is killed; "
                  "its stacks follow",
                  c->slot, (int)c->pid, (double)(now_ns - c->started_ns) / NS_PER_S);
        child_end_now(c);
        break;
    case CHILD_READY:
        if (c->control < 0) {
            log_warning("worker %u (pid %d) does not speak to the master any more: it is replaced",
                        c->slot, (int)c->pid);
            slots_went(m, c);
            kill(c->pid, SIGTERM);
            break;
        }
        log_error("worker %u (pid %d) said that it was ready and does not accept: it is killed; "
                  "its stacks follow",
                  c->slot, (int)c->pid);
        child_end_now(c);
        break;
    case CHILD_LEAVING:
        if (c->was_ready) {
            log_warning(
                "worker %u (pid %d) is still there %d s after timeouts.graceful (%lld s): it is "
                "killed; its stacks follow",
                c->slot, (int)c->pid, ENDING_MS / 1000,
                (long long)(m->now.conf->timeout_graceful_ms / 1000));
            child_end_now(c);
            break;
        }
        /* fall through */
    case CHILD_DUMPING:
        send_signal(c, SIGKILL);
        child_to(c, CHILD_KILLED);
        break;
    case CHILD_KILLED:
        break;
    }
}

static void
said_ready(struct master *m, struct child *c)
{
    if (c->state != CHILD_BOOTING)
        return; /* it was told to go meanwhile */
    child_to(c, CHILD_READY);
    c->was_ready = true;
    c->ready_ns = clock_ns();
    if (c->metrics != NULL)
        metrics_set(&c->metrics->worker.ready_ns, (uint64_t)c->ready_ns);
    int64_t accept_by = c->ready_ns + ACCEPT_MS * NS_PER_MS;
    if (c->deadline_ns < accept_by)
        c->deadline_ns = accept_by;
    slots_ready(m, c);
}

static void
said_listening(struct child *c, int32_t id)
{
    for (unsigned i = 0; i < c->told_n; i++)
        if (c->told[i].id == id)
            c->told[i].is_accepting = true;
    if (child_is_accepting(c))
        c->deadline_ns = 0;
}

void
child_read(struct master *m, struct child *c)
{
    for (int i = 0; i < READ_MAX && c->control >= 0; i++) {
        struct control_msg msg;
        int fd;
        int err = control_recv(c->control, &msg, &fd);
        if (err == -EAGAIN)
            return;
        if (err == -EBADMSG) {
            log_warning("worker %u (pid %d) sent what is no message to the master", c->slot,
                        (int)c->pid);
            continue;
        }
        if (err < 0) {
            close(fd_take(&c->control));
            c->told_n = 0;
            if (c->state == CHILD_READY)
                c->deadline_ns = clock_ns() + SILENT_MS * NS_PER_MS;
            return;
        }
        if (fd >= 0)
            close(fd); /* a worker has nothing to give */
        switch (msg.kind) {
        case CONTROL_READY:
            said_ready(m, c);
            break;
        case CONTROL_LISTENING:
            said_listening(c, msg.id);
            break;
        case CONTROL_REPLACE:
            slots_ask(m, c, METRICS_RESTART_ASKED, ASKED_MS, "wants to go");
            break;
        case CONTROL_SERVED:
            slots_ask(m, c, METRICS_RESTART_REQUESTS, 0,
                      "has served %d requests (recycle.max_requests)", (int)msg.id);
            break;
        case CONTROL_PONG:
            c->pinged_ns = 0;
            c->heard_ns = clock_ns();
            break;
        case CONTROL_SERVICE_STOPPED:
        case CONTROL_SERVICE_ENDED:
            services_said(m, c, msg.id, msg.kind == CONTROL_SERVICE_ENDED);
            break;
        case CONTROL_DRAINED:
            c->is_drained = true;
            if (c->state == CHILD_READY)
                slots_went(m, c);
            break;
        default:
            log_warning("worker %u (pid %d) sent an unknown message (%u)", c->slot, (int)c->pid,
                        msg.kind);
        }
    }
}

static uint64_t
cpu_ns(const struct rusage *usage)
{
    return ((uint64_t)usage->ru_utime.tv_sec + (uint64_t)usage->ru_stime.tv_sec) * NS_PER_S +
           ((uint64_t)usage->ru_utime.tv_usec + (uint64_t)usage->ru_stime.tv_usec) * 1000;
}

void
children_reap(struct master *m)
{
    for (;;) {
        int status;
        struct rusage usage;
        pid_t pid = wait4(-1, &status, WNOHANG, &usage);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid <= 0)
            return;
        /* Process 1 of a container inherits strangers, a shell's `exec` leaves us its children:
         * they are buried, no more. */
        upgrade_reaped(m, pid, status);
        events_reaped(m, pid, status);
        preload_read(m); /* it may be one that we do not know yet */
        if (preload_reaped(m, pid, status))
            continue;
        CHILDREN_EACH(c, m)
            if (c->pid == pid) {
                child_read(m, c); /* what it said last, e.g. that it was ready */
                slots_died(m, c, status);
                services_freed(m, c);
                metrics_give(c->metrics, c->pid, cpu_ns(&usage));
                child_free(m, c);
                break;
            }
    }
}
