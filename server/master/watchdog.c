/* watchdog.c: timeouts.worker: a worker whose loop stands still is no good to anybody: its stacks are logged, and it is killed and replaced.
 *
 * The loop's heartbeat lies in shared memory (metrics/pulse.h). A loop that waits for events has nothing to do; one that turns is
 * busy at most, however long its threads compute or its views run. What is left is a loop that is in one and the same turn at
 * every look: in a callback of the application's that blocks, in C, or waiting for the GIL that a thread does not give back.
 *
 * Time counts from the first look that found the loop there, and only while this process looks regularly itself: whoever freezes
 * the container, or the machine, freezes both. Processes that are stopped (SIGSTOP) or debugged are left alone, and so are all with
 * reload.enabled: who sits at a breakpoint thinks. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

enum { LOOKS = 8, LOOK_MAX_MS = 5000, LOOK_MIN_MS = 50 }; /* so many in timeouts.worker */

static int64_t
period_ns(int64_t timeout_ms)
{
    int64_t ms = timeout_ms / LOOKS;
    return (ms > LOOK_MAX_MS ? LOOK_MAX_MS : ms < LOOK_MIN_MS ? LOOK_MIN_MS : ms) * NS_PER_MS;
}

/* The text behind name at the beginning of a line, or "". */
static const char *
field(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) == 0)
            return line + n + strspn(line + n, "\t ");
    }
    return "";
}

/* Stopped by a signal, or under a debugger. */
static bool
is_held(pid_t pid)
{
    char path[32], text[4096];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (n <= 0)
        return false;
    text[n] = '\0';
    const char *state = field(text, "State:");
    return *state == 'T' || *state == 't' || atoi(field(text, "TracerPid:")) != 0;
}

static const char *
where(enum metrics_doing doing)
{
    return doing == METRICS_IN_PYTHON   ? "application code blocks it"
           : doing == METRICS_WANTS_GIL ? "it waits for the GIL, which a thread does not give back"
                                        : "it hangs in C";
}

void
watchdog_explain(const struct child *c, char *to, size_t size)
{
    const struct metrics_pulse *pulse = c->metrics != NULL ? &c->metrics->pulse : NULL;
    enum metrics_doing doing =
        pulse != NULL
            ? (enum metrics_doing)atomic_load_explicit(&pulse->doing, memory_order_relaxed)
            : METRICS_STARTS;
    if (is_held(c->pid))
        snprintf(to, size, "it is stopped (SIGSTOP, or a debugger)");
    else if (doing == METRICS_IN_PYTHON)
        snprintf(to, size,
                 "C code keeps the GIL; the event loop has been inside one step for %.1f s",
                 (double)(clock_ns() - (int64_t)metrics_get(&pulse->step_ns)) / NS_PER_S);
    else if (doing == METRICS_WANTS_GIL)
        snprintf(to, size, "a thread keeps the GIL; the event loop has waited for it for %.1f s",
                 (double)(clock_ns() - (int64_t)metrics_get(&pulse->begun_ns)) / NS_PER_S);
    else
        snprintf(to, size, "something keeps the GIL");
}

static void
look(struct master *m, struct child *c, int64_t now_ns)
{
    const struct metrics_pulse *pulse = &c->metrics->pulse;
    int64_t timeout_ns = m->now.conf->timeout_worker_ms * NS_PER_MS;
    uint64_t turns = metrics_get(&pulse->turns);
    enum metrics_doing doing =
        (enum metrics_doing)atomic_load_explicit(&pulse->doing, memory_order_relaxed);
    if (doing == METRICS_WAITS || doing == METRICS_STARTS || turns != c->turns ||
        c->turns_since_ns == 0) {
        c->turns = turns;
        c->turns_since_ns = now_ns;
        c->is_stopped_said = false;
        return;
    }
    if (now_ns - c->turns_since_ns < timeout_ns)
        return;
    if (is_held(c->pid)) {
        if (!c->is_stopped_said)
            log_warning(
                "worker %u (pid %d) is stopped (SIGSTOP, or a debugger): timeouts.worker waits",
                c->slot, (int)c->pid);
        c->is_stopped_said = true;
        c->turns_since_ns = now_ns;
        return;
    }
    log_error(
        "worker %u (pid %d) hangs: its loop has not turned for %.1f s (timeouts.worker), %s; it "
        "is killed and replaced; its requests and stacks follow",
        c->slot, (int)c->pid, (double)(now_ns - c->turns_since_ns) / NS_PER_S, where(doing));
    events_note(m, EVENT_WORKER_HUNG, c,
                EVENT_DETAILS({ "stood_ms", .n = (now_ns - c->turns_since_ns) / NS_PER_MS },
                              { "doing", .text = where(doing) }),
                "worker %u hangs: its loop has not turned for %.1f s (timeouts.worker), %s; it is "
                "killed and replaced, its requests and stacks are in the log",
                c->slot, (double)(now_ns - c->turns_since_ns) / NS_PER_S, where(doing));
    c->is_hung = true;
    child_end_now(c);
}

void
watchdog_tick(struct master *m, int64_t now_ns)
{
    int64_t timeout_ms = m->now.conf->timeout_worker_ms;
    if (timeout_ms == 0 || m->watch != NULL) {
        m->watchdog_at_ns = 0;
        return;
    }
    if (m->watchdog_at_ns > now_ns)
        return;
    int64_t period = period_ns(timeout_ms);
    bool is_late = m->watchdog_at_ns != 0 && now_ns - m->watchdog_at_ns > period + NS_PER_S;
    m->watchdog_at_ns = now_ns + period;
    CHILDREN_EACH(c, m) {
        if (is_late)
            c->turns_since_ns = 0;
        if (c->metrics != NULL && c->was_ready &&
            (c->state == CHILD_READY || c->state == CHILD_LEAVING))
            look(m, c, now_ns);
    }
}

int64_t
watchdog_next_ns(const struct master *m)
{
    return m->watchdog_at_ns;
}
