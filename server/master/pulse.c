/* pulse.c: whether the loops of the workers turn. A worker answers CONTROL_PING in its loop's I/O phase. It is asked only when somebody
 * wants to know (health.c, notify.c), so nothing wakes up an idle server.
 *
 * The server counts as dead when every ready worker has been silent for PULSE_SILENT_MS. One that hangs beside others that serve is
 * no reason to end them all, nor is a loop that Python blocks for a second. While workers boot, timeouts.startup counts. */
#include "base/base.h"
#include "state.h"

void
pulse_ask(struct master *m)
{
    int64_t now_ns = clock_ns();
    CHILDREN_EACH(c, m)
        if (c->state == CHILD_READY && c->pinged_ns == 0 && c->control >= 0 &&
            control_send(c->control, CONTROL_PING, 0, -1) == 0)
            c->pinged_ns = now_ns;
}

bool
pulse_is_there(const struct master *m, int64_t now_ns)
{
    bool is_anyone_ready = false;
    CHILDREN_EACH(c, m) {
        if (c->state != CHILD_READY)
            continue;
        is_anyone_ready = true;
        if (c->pinged_ns == 0 || now_ns - c->pinged_ns < PULSE_SILENT_MS * NS_PER_MS)
            return true;
    }
    return !is_anyone_ready || m->stop.state != STOP_NONE;
}
