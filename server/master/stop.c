/* stop.c: the ways to end.
 *
 *   graceful   TERM       health.ready says 503 for timeouts.drain_delay; doors shut; workers empty
 *                         the queues, then drain, for timeouts.graceful
 *   quick      INT, QUIT  workers cancel their requests and leave
 *   at once    a second signal of these: stacks to the log, SIGKILL */
#include <signal.h>
#include <stddef.h>

#include "base/base.h"
#include "state.h"

enum {
    DOORS_MS = 500,     /* at most, until the queues are empty */
    DOORS_LOOK_MS = 10, /* empty at two looks: the handshakes that were under way are through */
    NOTICE_MS = 800,    /* quick: then the operator learns who is busy */
    REPEAT_MS = 150, /* the same Ctrl-C, from the terminal and from a wrapper that passes it on */
};

static void
leave_all(struct master *m, enum control_kind kind)
{
    m->stop.state = STOP_LEAVING;
    CHILDREN_EACH(c, m)
        child_leave(m, c, kind);
    sockets_fini(&m->sockets);
}

static bool
is_anyone_ready(const struct master *m)
{
    CHILDREN_EACH(c, m)
        if (c->state == CHILD_READY)
            return true;
    return false;
}

static void
end_now(struct master *m)
{
    if (m->stop.state != STOP_LEAVING)
        leave_all(m, CONTROL_QUIT);
    CHILDREN_EACH(c, m)
        child_end_now(c);
}

/* Load balancers ask health.ready; until they have noticed they send requests, which are served. */
static void
give_notice(struct master *m, int64_t now_ns)
{
    struct stop *s = &m->stop;
    s->state = STOP_NOTICE;
    s->until_ns = now_ns + m->now.conf->timeout_drain_delay_ms * NS_PER_MS;
    log_info("not ready from now on, and still serving for %.1f s (timeouts.drain_delay)",
             (double)m->now.conf->timeout_drain_delay_ms / 1000);
    CHILDREN_EACH(c, m)
        if (c->control >= 0)
            (void)control_send(c->control, CONTROL_UNREADY, 0, -1);
}

static void
shut_doors(struct master *m, int64_t now_ns)
{
    m->stop.state = STOP_DOORS;
    m->stop.until_ns = now_ns + DOORS_MS * NS_PER_MS;
    sockets_shut_doors(&m->sockets);
}

void
stop_request(struct master *m, int by, int code)
{
    struct stop *s = &m->stop;
    int64_t now_ns = clock_ns();
    if (s->state != STOP_NONE) {
        if (by == 0 || (by == s->signal && now_ns - s->begun_ns < REPEAT_MS * NS_PER_MS))
            return;
        if (s->is_handed_over && s->signal == 0 && by == SIGTERM) {
            /* A service manager that ends the whole group: for this master there is nothing new in it. */
            s->signal = by;
            s->begun_ns = now_ns;
            return;
        }
        log_info("SIG%s again: ending at once", sigabbrev_np(by));
        end_now(m);
        return;
    }
    m->exit_code = code;
    s->signal = by;
    s->begun_ns = now_ns;
    reload_abort(m);
    upgrade_abort(m, by);
    if (by != 0)
        log_info("SIG%s: stopping", sigabbrev_np(by));
    bool is_quick = by == SIGINT || by == SIGQUIT;
    if (is_quick || !is_anyone_ready(m)) {
        s->notice_ns = is_quick ? now_ns + NOTICE_MS * NS_PER_MS : 0;
        /* nobody ready does not mean nobody draining */
        leave_all(m, is_quick ? CONTROL_QUIT : CONTROL_DRAIN);
        return;
    }
    if (m->now.conf->timeout_drain_delay_ms > 0)
        give_notice(m, now_ns);
    else
        shut_doors(m, now_ns);
}

void
stop_hand_over(struct master *m)
{
    m->stop.is_handed_over = true;
    m->stop.begun_ns = clock_ns();
    m->exit_code = EXIT_CODE_OK;
    leave_all(m, CONTROL_DRAIN);
}

static void
say_who_is_busy(struct master *m)
{
    CHILDREN_EACH(c, m)
        if (c->state == CHILD_LEAVING && !c->is_drained)
            log_warning("worker %u (pid %d) is still busy; a second signal (Ctrl-C) ends it and "
                        "shows what it does",
                        c->slot, (int)c->pid);
}

void
stop_tick(struct master *m, int64_t now_ns)
{
    struct stop *s = &m->stop;
    if (s->notice_ns != 0 && s->notice_ns <= now_ns) {
        s->notice_ns = 0;
        say_who_is_busy(m);
    }
    if (s->state == STOP_NOTICE && s->until_ns <= now_ns)
        shut_doors(m, now_ns);
    if (s->state != STOP_DOORS)
        return;
    bool is_empty = !sockets_are_waiting(&m->sockets);
    if ((is_empty && s->was_empty) || s->until_ns <= now_ns)
        leave_all(m, CONTROL_DRAIN);
    s->was_empty = is_empty;
}

int64_t
stop_next_ns(const struct master *m)
{
    if (m->stop.state == STOP_DOORS)
        return clock_ns() + DOORS_LOOK_MS * NS_PER_MS;
    return m->stop.state == STOP_NOTICE ? m->stop.until_ns : m->stop.notice_ns;
}
