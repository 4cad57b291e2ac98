/* services.c: services of which there is one instance over all workers: which worker runs each.
 *
 * A worker holds a service from the moment it is told to run it until it has said that it does not any more, or is dead and reaped;
 * only then is another told. So there are never two, also in a reload, where the old worker ends it first. Where another program takes over (SIGUSR2),
 * its services begin when the old master is gone, which waits for all of its workers.
 *
 * What runs in each worker is the worker's own affair. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "state.h"

static struct service *
find(const struct master *m, const char *name)
{
    for (unsigned i = 0; i < m->services_n; i++)
        if (strcmp(m->services[i].name, name) == 0)
            return &m->services[i];
    return NULL;
}

const struct service *
services_find(const struct master *m, const char *name)
{
    return find(m, name);
}

/* The one of this name, made where it is missing. NULL: no memory; the next look tries again. */
static struct service *
have(struct master *m, const char *name)
{
    struct service *s = find(m, name);
    if (s != NULL)
        return s;
    s = reallocarray(m->services, m->services_n + 1, sizeof(*s));
    if (s == NULL)
        return NULL;
    m->services = s;
    s += m->services_n;
    *s = (struct service){ .name = strdup(name) };
    if (s->name == NULL)
        return NULL;
    m->services_n++;
    return s;
}

static unsigned
held_by(const struct master *m, const struct child *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < m->services_n; i++)
        n += m->services[i].holder == c;
    return n;
}

/* Of the workers that know the service and stay, the one that has the fewest. */
static struct child *
choose(const struct master *m)
{
    struct child *best = NULL;
    for (unsigned i = 0; i < m->wanted; i++) {
        struct child *c = m->slots[i].current;
        if (c == NULL || c->generation != m->now.number || c->control < 0 ||
            !child_is_accepting(c) || c->replace_at_ns != 0)
            continue;
        if (best == NULL || held_by(m, c) < held_by(m, best))
            best = c;
    }
    return best;
}

void
services_tick(struct master *m)
{
    const struct conf *conf = m->now.conf;
    if (upgrade_is_beside(m) || m->stop.state != STOP_NONE)
        return;
    for (size_t i = 0; i < conf->services_n; i++) {
        if (conf->services[i].scope != CONF_SCOPE_ONE)
            continue;
        struct service *s = have(m, conf->services[i].name);
        if (s == NULL || s->holder != NULL || s->over_in == m->now.number)
            continue;
        struct child *c = choose(m);
        if (c == NULL)
            return;
        if (control_send(c->control, CONTROL_SERVICE, (int32_t)i, -1) < 0)
            continue; /* its socket is full or it dies: the next turn */
        s->holder = c;
        s->id = (int32_t)i;
        s->over_in = 0;
        log_debug("service %s: given to worker %u (pid %d)", s->name, c->slot, (int)c->pid);
    }
}

void
services_said(struct master *m, struct child *c, int32_t id, bool is_over)
{
    for (unsigned i = 0; i < m->services_n; i++) {
        struct service *s = &m->services[i];
        if (s->holder != c || s->id != id)
            continue;
        s->holder = NULL;
        s->over_in = is_over ? c->generation : 0;
    }
}

/* By a death that nobody asked for: what is not to be restarted is over. */
static bool
is_over_by_death(const struct master *m, const struct child *c, const struct service *s)
{
    const struct conf *conf = m->now.conf;
    return c->generation == m->now.number && c->state != CHILD_LEAVING &&
           conf->services[s->id].restart == CONF_RESTART_NEVER;
}

void
services_freed(struct master *m, struct child *c)
{
    for (unsigned i = 0; i < m->services_n; i++) {
        struct service *s = &m->services[i];
        if (s->holder != c)
            continue;
        s->holder = NULL;
        s->over_in = is_over_by_death(m, c, s) ? c->generation : 0;
    }
}

void
services_fini(struct master *m)
{
    for (unsigned i = 0; i < m->services_n; i++)
        free(m->services[i].name);
    free(m->services);
    m->services = NULL;
    m->services_n = 0;
}
