/* recycle.c: recycle.max_age and recycle.max_rss: which workers are replaced before they do harm. How that is done, one at a time and with
 * the successor ready first, is slots.c's; recycle.max_requests is counted by the worker itself. */
#include "base/base.h"
#include "base/proc.h"
#include "state.h"

enum { LOOK_MS = 1000 };

static void
look(struct master *m, struct child *c, int64_t now_ns)
{
    const struct conf *conf = m->now.conf;
    struct proc_usage usage;
    int64_t age_ms = (now_ns - c->ready_ns) / NS_PER_MS;
    if (conf->recycle_max_age_ms > 0 && age_ms >= conf->recycle_max_age_ms)
        slots_ask(m, c, METRICS_RESTART_AGE, 0, "is %lld s old (recycle.max_age)",
                  (long long)(age_ms / 1000));
    else if (conf->recycle_max_rss > 0 && proc_usage(c->pid, &usage) == 0 &&
             usage.rss_bytes > conf->recycle_max_rss)
        slots_ask(m, c, METRICS_RESTART_MEMORY, 0, "has %llu MiB in memory (recycle.max_rss)",
                  (unsigned long long)(usage.rss_bytes >> 20));
}

void
recycle_tick(struct master *m, int64_t now_ns)
{
    const struct conf *conf = m->now.conf;
    if (conf->recycle_max_age_ms == 0 && conf->recycle_max_rss == 0) {
        m->recycle_at_ns = 0;
        return;
    }
    if (m->recycle_at_ns > now_ns)
        return;
    m->recycle_at_ns = now_ns + LOOK_MS * NS_PER_MS;
    CHILDREN_EACH(c, m)
        if (c->state == CHILD_READY)
            look(m, c, now_ns);
}

int64_t
recycle_next_ns(const struct master *m)
{
    return m->recycle_at_ns;
}
