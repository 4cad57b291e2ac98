/* coverage.c: who accepts from which socket.
 *
 * One rule (master.h, "Coverage") says what each worker should accept from; what it was told is
 * compared with it, and the difference is sent. Nothing is remembered between events: whatever
 * happened, the next look puts it right. */
#include <stdlib.h>

#include "base/base.h"
#include "state.h"

enum {
    QUIET_MS = 500, /* empty for so long, a queue stays empty: handshakes under way are through */
    LEAVE_MS = 10 * 1000, /* nobody accepts (all workers stuck): close it anyway */
};

static bool
is_serving(const struct child *c)
{
    return c->state == CHILD_READY && c->control >= 0;
}

static struct told *
find_told(const struct child *c, int32_t id)
{
    for (unsigned i = 0; i < c->told_n; i++)
        if (c->told[i].id == id)
            return &c->told[i];
    return NULL;
}

enum cover {
    COVER_NONE,
    COVER_COMES, /* a worker of the slot will accept in a moment: who accepts goes on, nobody else need begin */
    COVER_OWN, /* it does */
};

/* How the socket's own slot serves it. */
static enum cover
cover_of(const struct master *m, const struct msocket *k)
{
    enum cover found = COVER_NONE;
    CHILDREN_EACH(c, m) {
        if ((int)c->slot != k->slot || !is_serving(c))
            continue;
        const struct told *t = find_told(c, k->id);
        if (t != NULL && t->is_accepting)
            return COVER_OWN;
        found = COVER_COMES;
    }
    return found;
}

static void
tell(struct child *c, const struct bound *b, const struct msocket *k)
{
    struct told *v = realloc(c->told, (c->told_n + 1) * sizeof(*v));
    if (v == NULL)
        return; /* tried again at the next event */
    c->told = v;
    if (control_send(c->control, b->is_tls ? CONTROL_LISTEN_TLS : CONTROL_LISTEN, k->id, k->fd) < 0)
        return; /* its queue is full, or it is dying: the same */
    v[c->told_n++] = (struct told){ .id = k->id };
}

static void
tell_no_more(struct child *c, struct told *t)
{
    if (control_send(c->control, CONTROL_UNLISTEN, t->id, -1) == 0)
        *t = c->told[--c->told_n];
}

/* Whether k is c's own and nobody else accepts from it as one who is alone does: such an accept in the ring is woken first, also while that
 * worker's loop is blocked, whether it was told to go or not. */
static bool
is_alone(const struct master *m, const struct child *c, const struct msocket *k)
{
    if (k->slot != (int)c->slot || upgrade_is_beside(m))
        return false;
    CHILDREN_EACH(other, m)
        if (other != c && other->slot == c->slot && other->was_ready)
            return false;
    return true;
}

static void
tell_alone(struct child *c, struct told *t)
{
    t->is_alone = control_send(c->control, CONTROL_ALONE, t->id, -1) == 0;
}

static void
cover(struct master *m, const struct list *bounds)
{
    BOUNDS_EACH(b, bounds)
        for (unsigned i = 0; i < b->n; i++) {
            const struct msocket *k = &b->v[i];
            if (!k->is_listening)
                continue;
            enum cover by = k->slot == SLOT_SHARED ? COVER_NONE : cover_of(m, k);
            CHILDREN_EACH(c, m) {
                if (!is_serving(c))
                    continue;
                struct told *t = find_told(c, k->id);
                bool should =
                    k->slot == (int)c->slot || by == COVER_NONE || (by == COVER_COMES && t != NULL);
                if (should && t == NULL)
                    tell(c, b, k);
                else if (!should && t != NULL)
                    tell_no_more(c, t);
                else if (t != NULL && t->is_accepting && !t->is_alone && is_alone(m, c, k))
                    tell_alone(c, t);
            }
        }
}

static bool
is_open(const struct list *bounds, int32_t id)
{
    BOUNDS_EACH(b, bounds)
        for (unsigned i = 0; i < b->n; i++)
            if (b->v[i].id == id)
                return true;
    return false;
}

void
coverage_update(struct master *m)
{
    if (m->stop.state == STOP_LEAVING)
        return;
    cover(m, &m->sockets.bounds);
    cover(m, &m->sockets.leaving);
}

void
coverage_tick(struct master *m, int64_t now_ns)
{
    bool is_one_closed = false;
    LIST_FOR_EACH_SAFE(node, &m->sockets.leaving) {
        struct bound *b = CONTAINER_OF(node, struct bound, node);
        if (b->leave_by_ns == 0)
            b->leave_by_ns = now_ns + LEAVE_MS * NS_PER_MS;
        if (bound_is_waiting(b))
            b->quiet_since_ns = -1;
        else if (b->quiet_since_ns < 0)
            b->quiet_since_ns = now_ns;
        bool is_quiet =
            b->quiet_since_ns >= 0 && now_ns - b->quiet_since_ns >= QUIET_MS * NS_PER_MS;
        if (!is_quiet && now_ns < b->leave_by_ns)
            continue;
        log_info("no longer listening on %s", b->text);
        bound_free(b);
        is_one_closed = true;
    }
    if (!is_one_closed)
        return;
    CHILDREN_EACH(c, m)
        for (unsigned i = c->told_n; i-- > 0;)
            if (is_serving(c) && !is_open(&m->sockets.bounds, c->told[i].id) &&
                !is_open(&m->sockets.leaving, c->told[i].id))
                tell_no_more(c, &c->told[i]);
}
