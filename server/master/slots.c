/* slots.c: keeps a worker in every slot that should have one: deaths, restarts, back-off, how
 * many. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

enum {
    WORKERS_MAX = METRICS_SLOTS_MAX,
    FAILURES_MAX = 5, /* deaths before ready, in a row: a crash loop */
    BACKOFF_MS = 100, /* doubled with each death in a row */
    BACKOFF_MAX_MS = 5000,
    SHORT_LIFE_MS = 1000, /* ready for less than this, again and again: back off too */
    SHORT_LIVES_FREE = 2,
    REPLACE_AGAIN_MS = 5000, /* after its replacement died */
    REPLACE_LIFE_MS = 1000,  /* ready for so long at least before it is recycled */
    REPLACE_LOOK_MS = 200,   /* while it cannot be yet */
    STAGGER_MS = 500, /* the first's head start: who cannot start shall say so once, not N times */
};

static int64_t
backoff_ns(unsigned times)
{
    int64_t ms = BACKOFF_MS;
    while (times-- > 1 && ms < BACKOFF_MAX_MS)
        ms *= 2;
    return (ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS) * NS_PER_MS;
}

int
slots_grow(struct master *m, unsigned n)
{
    if (n <= m->slots_n)
        return 0;
    if (n > WORKERS_MAX) {
        log_operator("workers: %u are more than the %d that are supported", n, WORKERS_MAX);
        return -EXIT_CODE_SYSTEM;
    }
    struct slot *slots = realloc(m->slots, n * sizeof(*slots));
    if (slots == NULL) {
        log_operator("workers: out of memory");
        return -EXIT_CODE_SYSTEM;
    }
    m->slots = slots;
    int code = sockets_grow(&m->sockets, n, m->now.conf);
    if (code < 0)
        return code;
    memset(slots + m->slots_n, 0, (n - m->slots_n) * sizeof(*slots));
    /* At the very start the others wait for the first; see slots_ready(). */
    if (m->slots_n == 0)
        for (unsigned i = 1; i < n; i++)
            slots[i].start_ns = clock_ns() + STAGGER_MS * NS_PER_MS;
    m->slots_n = n;
    return 0;
}

/* What may be behind a SIGKILL that was not ours; "" where there is nothing to say. */
static const char *
killed_by(struct master *m, const struct child *c, int status)
{
    if (WTERMSIG(status) != SIGKILL || c->state == CHILD_DUMPING || c->state == CHILD_KILLED)
        return "";
    uint64_t oom_kills = conf_oom_kills();
    bool is_oom = oom_kills != m->oom_kills;
    m->oom_kills = oom_kills;
    return is_oom ? "; the kernel has just killed for want of memory (oom_kill went up): see "
                    "recycle.max_rss, fewer workers, or a higher limit"
                  : "; not by the master";
}

/* "exit code 3", "signal 11 (SEGV), core dumped". */
static void
describe(struct master *m, const struct child *c, int status, char *out, size_t size)
{
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(out, size, "signal %d (%s)%s%s", WTERMSIG(status),
                 name != NULL ? name : "real-time", WCOREDUMP(status) ? ", core dumped" : "",
                 killed_by(m, c, status));
    } else {
        snprintf(out, size, "exit code %d", WEXITSTATUS(status));
    }
}

/* Whether an exit code says that trying again is useless. */
static bool
is_final(int status)
{
    return WIFEXITED(status) && WEXITSTATUS(status) >= EXIT_CODE_SYSTEM &&
           WEXITSTATUS(status) <= EXIT_CODE_NOT_FOUND;
}

static void
count_failure(struct master *m, unsigned i, int64_t now_ns, const char *how)
{
    struct slot *slot = &m->slots[i];
    slot->failures++;
    if (slot->failures >= FAILURES_MAX) {
        logs_say(&m->logs,
                 "worker %u died %u times in a row before it was ready (%s): giving up; its errors "
                 "are above",
                 i, slot->failures, how);
        events_note(m, EVENT_CRASH_LOOP, NULL,
                    EVENT_DETAILS({ "worker", .n = i }, { "times", .n = slot->failures },
                                  { "how", .text = how }),
                    "worker %u died %u times in a row before it was ready (%s): the server ends", i,
                    slot->failures, how);
        stop_request(m, 0, EXIT_CODE_APP);
        return;
    }
    int64_t wait_ns = backoff_ns(slot->failures);
    slot->start_ns = now_ns + wait_ns;
    log_warning("worker %u died before it was ready (%u of %d): next try in %lld ms", i,
                slot->failures, FAILURES_MAX, (long long)(wait_ns / NS_PER_MS));
}

static void
start(struct master *m, unsigned i, int64_t now_ns)
{
    struct slot *slot = &m->slots[i];
    slot->start_ns = 0;
    if (child_start(m, i, &m->now, &slot->current) < 0) {
        count_failure(m, i, now_ns, "it could not be started");
        return;
    }
    if (slot->is_vacant)
        child_count_restart(m, i, slot->why);
    slot->is_vacant = false;
}

/* The worker on which a reload depends. */
static bool
is_tried(const struct master *m, const struct child *c)
{
    return m->reload.state == RELOAD_TRYING && c != NULL && c->generation == m->reload.next.number;
}

/* A reload replaces all of them anyway, and so does another program. */
static bool
may_replace(const struct master *m)
{
    return m->reload.state == RELOAD_NONE && m->upgrade.state == UPGRADE_NONE;
}

/* One at a time, so that most of them serve; and workers with long requests must not pile up behind their successors. */
static bool
is_one_replaced(const struct master *m)
{
    unsigned leaving = 0;
    CHILDREN_EACH(c, m)
        leaving += c->state == CHILD_LEAVING;
    for (unsigned i = 0; i < m->wanted; i++)
        if (m->slots[i].next != NULL)
            return true;
    return m->now.conf->timeout_graceful_ms > 0 && leaving > 2 * m->wanted;
}

/* A worker that wants to go, outside of a reload (which replaces it anyway). */
static void
replace_if_asked(struct master *m, unsigned i, int64_t now_ns)
{
    struct slot *slot = &m->slots[i];
    if (slot->next != NULL) {
        if (m->reload.state != RELOAD_REPLACING && !is_tried(m, slot->next))
            (void)slots_replace(m, i);
        return;
    }
    struct child *c = slot->current;
    if (c->replace_at_ns == 0 || c->replace_at_ns > now_ns || !may_replace(m))
        return;
    if (is_one_replaced(m)) {
        c->replace_at_ns = now_ns + REPLACE_LOOK_MS * NS_PER_MS;
        return;
    }
    c->replace_at_ns = now_ns + REPLACE_AGAIN_MS * NS_PER_MS;
    if (child_start(m, i, &m->now, &slot->next) < 0)
        return;
    child_count_restart(m, i, c->replace_reason);
    log_info("worker %u (pid %d) %s; another takes its place", i, (int)c->pid, c->replace_why);
}

void
slots_tick(struct master *m, int64_t now_ns)
{
    for (unsigned i = 0; i < m->wanted && m->stop.state == STOP_NONE && !m->waits; i++) {
        struct slot *slot = &m->slots[i];
        if (slot->current == NULL && slot->next != NULL && !is_tried(m, slot->next)) {
            slot->current = slot->next; /* the old one did not wait for it */
            slot->next = NULL;
        }
        if (slot->current != NULL) {
            replace_if_asked(m, i, now_ns);
            continue;
        }
        /* While a reload tries its first worker here, nothing is due unless it was said so. */
        if (slot->start_ns == 0 && slot->next == NULL)
            slot->start_ns = now_ns;
        if (slot->start_ns != 0 && slot->start_ns <= now_ns)
            start(m, i, now_ns);
    }
}

int64_t
slots_next_ns(const struct master *m)
{
    int64_t next = 0;
    for (unsigned i = 0; i < m->wanted && m->stop.state == STOP_NONE; i++) {
        const struct slot *slot = &m->slots[i];
        if (slot->current == NULL)
            next = sooner(next, slot->start_ns);
        else if (slot->next == NULL && may_replace(m))
            next = sooner(next, slot->current->replace_at_ns);
    }
    return next;
}

static void
say_listening(const struct master *m)
{
    BOUNDS_EACH(b, &m->sockets.bounds)
        log_info("listening on %s%s with %u worker%s",
                 b->is_tls                  ? "https://"
                 : b->kind == CONF_BIND_TCP ? "http://"
                                            : "",
                 b->text, m->wanted, m->wanted == 1 ? "" : "s");
}

void
slots_ready(struct master *m, struct child *c)
{
    struct slot *slot = &m->slots[c->slot];
    bool is_first = !m->was_ready;
    bool is_new = is_tried(m, c);
    if (is_new && reload_commit(m, c) < 0)
        return;
    if (sockets_listen(&m->sockets, c->slot, m->now.conf) < 0 && is_first) {
        stop_request(m, 0, EXIT_CODE_SYSTEM);
        return;
    }
    slot->failures = 0;
    m->waits = false;
    log_info("worker %u is ready (pid %d, after %.2f s)", c->slot, (int)c->pid,
             (double)(c->ready_ns - c->started_ns) / NS_PER_S);
    m->was_ready = true;
    if (is_first)
        for (unsigned i = 0; i < m->wanted; i++)
            if (m->slots[i].current == NULL && m->slots[i].failures == 0)
                m->slots[i].start_ns = c->ready_ns;
    if (is_first || is_new)
        say_listening(m);
}

/* Whether a worker that boots ends like this when somebody sends it SIGTERM. */
static bool
is_told(int status)
{
    return WIFSIGNALED(status) ? WTERMSIG(status) == SIGTERM : WEXITSTATUS(status) == EXIT_CODE_OK;
}

static void
log_death(struct master *m, const struct child *c, int status, const char *how)
{
    bool is_clean = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_CODE_OK;
    if (c->pid == 0)
        return; /* it was not there yet: preload.c has said why it will not be */
    if (c->state == CHILD_DUMPING || c->state == CHILD_KILLED)
        log_info("worker %u (pid %d) ended: %s", c->slot, (int)c->pid, how);
    else if (c->state == CHILD_LEAVING && (is_clean || !c->was_ready))
        log_debug("worker %u (pid %d) left", c->slot, (int)c->pid);
    else if (c->state == CHILD_LEAVING || m->stop.state != STOP_NONE)
        log_warning("worker %u (pid %d) did not leave in order: %s", c->slot, (int)c->pid, how);
    else if (c->state == CHILD_BOOTING && is_told(status))
        log_warning("worker %u (pid %d) was told to end (SIGTERM) before it was ready: %s", c->slot,
                    (int)c->pid, how);
    else {
        log_error("worker %u (pid %d) died: %s", c->slot, (int)c->pid, how);
        events_note(
            m, EVENT_WORKER_DIED, c,
            EVENT_DETAILS({ WIFSIGNALED(status) ? "signal" : "exit_code",
                            .n = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) },
                          { "was_ready", .n = c->was_ready },
                          { "lived_ms", .n = (clock_ns() - c->started_ns) / NS_PER_MS }),
            "worker %u died: %s", c->slot, how);
    }
}

/* After one that had been ready: at once, unless that happens all the time. */
static void
restart_at_once(struct master *m, const struct child *c, int64_t now_ns)
{
    struct slot *slot = &m->slots[c->slot];
    slot->short_lives =
        now_ns - c->ready_ns < SHORT_LIFE_MS * NS_PER_MS ? slot->short_lives + 1 : 0;
    slot->start_ns = now_ns;
    if (slot->short_lives <= SHORT_LIVES_FREE)
        return;
    slot->start_ns += backoff_ns(slot->short_lives - SHORT_LIVES_FREE);
    events_note(m, EVENT_CRASH_LOOP, c,
                EVENT_DETAILS({ "times", .n = slot->short_lives },
                              { "next_try_ms", .n = (slot->start_ns - now_ns) / NS_PER_MS }),
                "worker %u left soon after it was ready, %u times in a row", c->slot,
                slot->short_lives);
    log_warning("worker %u left soon after it was ready, %u times in a row: next try in %lld ms",
                c->slot, slot->short_lives, (long long)((slot->start_ns - now_ns) / NS_PER_MS));
}

static void
restart(struct master *m, const struct child *c, int status, const char *how)
{
    int64_t now_ns = clock_ns();
    if (c->was_ready) {
        restart_at_once(m, c, now_ns);
        return;
    }
    if (upgrade_is_taking(m)) { /* no second try: the other master serves */
        logs_say(&m->logs, "worker %u could not start (%s); its error is above", c->slot, how);
        stop_request(m, 0, is_final(status) ? WEXITSTATUS(status) : EXIT_CODE_APP);
        return;
    }
    if (!m->was_ready && is_final(status) && m->watch != NULL) {
        m->waits = true;
        log_info("waiting for a change of the application's files");
        return;
    }
    if (!m->was_ready && is_final(status)) {
        logs_say(&m->logs, "worker %u could not start (%s); its error is above", c->slot, how);
        stop_request(m, 0, WEXITSTATUS(status));
        return;
    }
    count_failure(m, c->slot, now_ns, how);
}

/* A replacement died. One that was asked for is tried again; see replace_if_asked(). */
static void
lost_next(struct master *m, const struct child *c, const char *how)
{
    m->slots[c->slot].next = NULL;
    if (is_tried(m, c) || m->reload.state == RELOAD_REPLACING)
        reload_failed(m, c->slot, how);
}

void
slots_died(struct master *m, struct child *c, int status)
{
    char how[256];
    struct slot *slot = &m->slots[c->slot];
    describe(m, c, status, how, sizeof(how));
    log_death(m, c, status, how);
    if (c->is_hung)
        metrics_add(&m->metrics->master.restarts[c->slot].why[METRICS_RESTART_HANG], 1);
    if (slot->next == c) {
        lost_next(m, c, how);
        return;
    }
    if (slot->current != c)
        return;
    slot->current = NULL;
    slot->is_vacant = true;
    slot->why = c->state == CHILD_DUMPING || c->state == CHILD_KILLED ? METRICS_RESTART_KILLED
                : WIFSIGNALED(status)                                 ? METRICS_RESTART_CRASH
                                                                      : METRICS_RESTART_EXIT;
    if (m->stop.state != STOP_NONE || c->slot >= m->wanted)
        return;
    /* Another may be on its way already: slots_tick() puts it here. The one that a reload tries
     * may help as well, but only a slot that nobody served can wait for it. */
    if (slot->next != NULL && (!is_tried(m, slot->next) || !c->was_ready))
        return;
    restart(m, c, status, how);
}

void
slots_ask(struct master *m, struct child *c, enum metrics_restart reason, int64_t wait_ms,
          const char *why, ...)
{
    if (c->state != CHILD_READY || c->replace_at_ns != 0 || m->stop.state != STOP_NONE ||
        m->slots[c->slot].current != c)
        return;
    va_list args;
    va_start(args, why);
    vsnprintf(c->replace_why, sizeof(c->replace_why), why, args);
    va_end(args);
    c->replace_reason = reason;
    c->replace_at_ns = clock_ns() + wait_ms * NS_PER_MS;
    /* However low the limits are, what a start costs is not to be all that is done. */
    int64_t soonest_ns = c->ready_ns + REPLACE_LIFE_MS * NS_PER_MS;
    if (reason != METRICS_RESTART_ASKED && c->replace_at_ns < soonest_ns)
        c->replace_at_ns = soonest_ns;
}

bool
slots_replace(struct master *m, unsigned i)
{
    struct slot *slot = &m->slots[i];
    if (slot->next == NULL)
        return true;
    if (!child_is_accepting(slot->next))
        return false;
    struct child *old = slot->current;
    slot->current = slot->next;
    slot->next = NULL;
    slot->start_ns = 0;
    if (old != NULL)
        child_leave(m, old, CONTROL_DRAIN);
    return true;
}

void
slots_went(struct master *m, struct child *c)
{
    struct slot *slot = &m->slots[c->slot];
    child_to(c, CHILD_LEAVING);
    c->told_n = 0;
    c->deadline_ns = child_leave_by(m);
    if (slot->next == c) {
        lost_next(m, c, "it drained as soon as it was ready");
    } else if (slot->current == c) {
        slot->current = NULL;
        if (m->stop.state != STOP_NONE)
            return;
        log_info("worker %u (pid %d) drains; another takes its place", c->slot, (int)c->pid);
        if (slot->next == NULL)
            restart_at_once(m, c, clock_ns());
    }
}

void
slots_more(struct master *m)
{
    if (slots_scale(m, m->wanted + 1) == 0)
        log_info("SIGTTIN: %u worker%s", m->wanted, m->wanted == 1 ? "" : "s");
}

void
slots_less(struct master *m)
{
    if (m->wanted == 1)
        log_info("SIGTTOU: the last worker stays");
    else if (m->wanted > 1 && slots_scale(m, m->wanted - 1) == 0)
        log_info("SIGTTOU: %u worker%s", m->wanted, m->wanted == 1 ? "" : "s");
}

void
slots_rest(struct master *m)
{
    /* Not through /dev/null and pipes alone: nohup leaves a terminal in charge of the group. */
    FD_OWNED int terminal = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (terminal >= 0 || m->wanted == 0) {
        log_debug("SIGWINCH: %s",
                  terminal >= 0 ? "the terminal's size, nothing to us" : "no worker is left");
        return;
    }
    if (slots_scale(m, 0) == 0)
        log_warning("SIGWINCH: the workers leave, and connections wait; SIGHUP brings all of them "
                    "back, SIGTTIN one");
}

int
slots_scale(struct master *m, unsigned n)
{
    if (m->stop.state != STOP_NONE || m->upgrade.state != UPGRADE_NONE)
        return -EBUSY; /* the next master would not know of more sockets */
    if (n > WORKERS_MAX)
        return -ERANGE;
    if (n > m->slots_n &&
        m->reload.state ==
            RELOAD_TRYING) { /* what it has opened is for so many slots as there are */
        log_warning("more workers: not while a reload is being tried; ask again when it is over");
        return -EAGAIN;
    }
    if (slots_grow(m, n) < 0)
        return -EAGAIN;
    if (n == 0)
        reload_abort(m); /* what it tries would have nobody to replace */
    m->wanted = n;
    slots_trim(m);
    return 0;
}

unsigned
slots_wanted_by(const struct master *m, const struct conf *conf)
{
    bool is_changed = conf->workers != m->now.conf->workers;
    return is_changed || m->wanted == 0 ? conf->workers : m->wanted;
}

void
slots_trim(struct master *m)
{
    for (unsigned i = m->wanted; i < m->slots_n; i++) {
        struct slot *slot = &m->slots[i];
        if (slot->current != NULL)
            child_leave(m, slot->current, CONTROL_DRAIN);
        if (slot->next != NULL)
            child_leave(m, slot->next, CONTROL_DRAIN);
        *slot = (struct slot){ 0 };
    }
}
