/* turn.c: what the loop does for a crew once a turn: parking, deadlines, threads to start.
 *
 * Parking. A request that awaits its next call to a thread makes it within a few turns of the loop: its task is woken by the result, the
 * framework's layers hand it on by call_soon() at most. After PARK_TURNS turns without a new job it awaits something else, and its slot
 * is another's. Only while someone waits; then the loop does not sleep until it is decided.
 *
 * Runs on:  the loop's thread, in the phases that each function names. */
#include "sync/crew.h"

enum { NAMED_MAX = 8, REPORT_SIZE = 1024 };
static const int64_t alarm_rest_ns = 10 * NS_PER_S; /* between two calls of on_wait */

/* --- parking: lock held -------------------------------------------------------------------------- */

static void
park_leases(struct crew *c)
{
    struct list *node = c->holding.next;
    while (crew_is_short(c) && node != &c->holding) {
        struct lease *l = CONTAINER_OF(node, struct lease, holding);
        node = node->next;
        if (!headway_is_over(c, l))
            continue;
        crew_park(c, l);
        crew_dispatch(c); /* makes leases run, none hold */
    }
}

/* --- deadlines ----------------------------------------------------------------------------------- */

/* Who has the slots, for the log. Lock held. */
static void
describe_holders(struct crew *c, int64_t now, char *text, size_t size)
{
    size_t used = 0, n = 0, more = 0;
    text[0] = '\0';
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        if (!l->has_slot)
            continue;
        if (n >= NAMED_MAX || used + sizeof l->label + 32 > size) {
            more++;
            continue;
        }
        used += (size_t)snprintf(text + used, size - used, "%s%s (%.1f s)", n++ > 0 ? ", " : "",
                                 l->label[0] != '\0' ? l->label : "a call without a name",
                                 (double)(now - l->slot_ns) * 1e-9);
    }
    if (more > 0)
        snprintf(text + used, size - used, " and %zu more", more);
    else if (n == 0)
        snprintf(text, size, "nobody: threads_max is reached");
}

/* Lock held: the first that waits for a slot to begin a job, or NULL. */
static struct lease *
first_of(struct list *queue)
{
    LIST_FOR_EACH(node, queue) {
        struct lease *l = CONTAINER_OF(node, struct lease, wait);
        if (!l->is_resuming)
            return l;
    }
    return NULL;
}

/* Takes those that have waited for too long out of a queue. Lock held; the first of them is described in who. */
static size_t
expire(struct crew *c, struct list *queue, int64_t now, struct list *jobs, char *who, size_t size)
{
    size_t n = 0;
    struct lease *l;
    while ((l = first_of(queue)) != NULL && now - l->wait_ns >= c->queue_timeout_ns) {
        if (n++ == 0 && who[0] == '\0')
            snprintf(who, size, "%s", l->label[0] != '\0' ? l->label : "a call without a name");
        crew_drop_queued(c, l, jobs); /* may let others begin */
    }
    return n;
}

/* A slot is free, and no thread can be had for it: who can do without does not wait until some request ends. Lock held. */
static void
drop_optional(struct crew *c, struct list *jobs)
{
    if (c->optional_n == 0 || c->slots_used >= c->slots || !crew_has_no_thread(c))
        return;
    LIST_FOR_EACH_SAFE(node, &c->wait_new) {
        struct lease *l = CONTAINER_OF(node, struct lease, wait);
        if (l->is_optional)
            crew_drop_queued(c, l, jobs);
    }
}

/* Lock held. */
static void
end_idle_threads(struct crew *c, int64_t now)
{
    int64_t next = INT64_MAX;
    struct list *node = c->idle.prev; /* those that hold nothing first */
    while (node != &c->idle && c->threads_n > c->slots) {
        struct sync_thread *t = CONTAINER_OF(node, struct sync_thread, link);
        node = node->prev;
        if (t->idle_since_ns == 0)
            t->idle_since_ns = now;
        int64_t due = t->idle_since_ns + c->idle_timeout_ns;
        if (due <= now)
            crew_dismiss(c, t);
        else if (due < next)
            next = due;
    }
    WRITE(c->idle_due_ns, c->threads_n > c->slots ? next : INT64_MAX);
}

/* When somebody has waited for long enough to say so; INT64_MAX: nobody waits. Lock held. */
static int64_t
alarm_due_ns(struct crew *c)
{
    const struct lease *kept = first_of(&c->wait_kept), *fresh = first_of(&c->wait_new);
    int64_t since = INT64_MAX;
    if (kept != NULL)
        since = kept->wait_ns;
    if (fresh != NULL && fresh->wait_ns < since)
        since = fresh->wait_ns;
    if (c->wait_alarm_ns == 0 || since == INT64_MAX)
        return INT64_MAX;
    return since + c->wait_alarm_ns > c->alarm_next_ns ? since + c->wait_alarm_ns
                                                       : c->alarm_next_ns;
}

/* Phase 2: no Python, GIL state unknown. */
static void
client_turn(void *self)
{
    struct crew *c = self;
    WRITE(c->turn, c->turn + 1);
    crew_wake_gathered(c);
    if (READ(c->waiting) == 0 && READ(c->idle_due_ns) == INT64_MAX && !READ(c->needs_turn))
        return;

    struct list expired, unserved;
    char who[sizeof(((struct lease *)NULL)->label)] = "", holders[REPORT_SIZE];
    int64_t now = clock_ns();
    bool is_logged = false;
    list_init(&expired);
    list_init(&unserved);
    crew_lock(c);
    WRITE(c->needs_turn, false);
    if ((c->retry_ns != 0 && now >= c->retry_ns) || c->is_holding_back)
        crew_dispatch(c);
    park_leases(c);
    drop_optional(c, &unserved);
    if (c->queue_timeout_ns > 0 && c->waiting > 0) {
        size_t n = expire(c, &c->wait_kept, now, &expired, who, sizeof who) +
                   expire(c, &c->wait_new, now, &expired, who, sizeof who);
        c->refusals += n;
        metrics_add(&c->metrics->refused_timeout, n);
        if (n > 0 && now - c->refusal_log_ns >= NS_PER_S) {
            c->refusal_log_ns = now;
            is_logged = true;
            describe_holders(c, now, holders, sizeof holders);
        }
    }
    if (now >= alarm_due_ns(c)) {
        c->alarm_next_ns = now + alarm_rest_ns;
        c->is_alarm_due = true;
    }
    if (now >= c->idle_due_ns)
        end_idle_threads(c, now);
    bool has_expired = !list_is_empty(&expired), has_unserved = !list_is_empty(&unserved);
    crew_unlock(c);

    if (is_logged) {
        log_warning(
            "%s waited for a thread for longer than sync.queue_timeout (%.1f s), as did %zu "
            "more since the last such line; the slots are held by: %s",
            who, (double)c->queue_timeout_ns * 1e-9, c->refusals - 1, holders);
        c->refusals = 0;
    }
    if (has_expired)
        crew_drop(c, &expired, SYNC_DROP_TIMEOUT);
    if (has_unserved)
        crew_drop(c, &unserved, SYNC_DROP_NO_THREAD);
}

/* --- phase 3 -------------------------------------------------------------------------------------- */

static bool
client_has_work(void *self)
{
    struct crew *c = self;
    return READ(c->wanted) > 0 || c->is_alarm_due || blocked_is_due(c);
}

/* No thread at all, and none to be had: those that wait would do so for ever. */
static void
drop_needy(struct crew *c)
{
    struct list jobs;
    list_init(&jobs);
    crew_lock(c);
    LIST_FOR_EACH_SAFE(other, &c->wait_new) {
        crew_drop_queued(c, CONTAINER_OF(other, struct lease, wait), &jobs);
    }
    crew_unlock(c);
    crew_drop(c, &jobs, SYNC_DROP_TIMEOUT);
}

static int
client_run(void *self)
{
    struct crew *c = self;
    if (blocked_is_due(c))
        blocked_sample(c);
    if (c->is_alarm_due) {
        c->is_alarm_due = false;
        crew_tell_wait(c);
    }
    if (READ(c->wanted) == 0)
        return 0;
    bool is_lost;
    int err = crew_start_threads(c, &is_lost);
    if (is_lost)
        drop_needy(c);
    return err;
}

static int64_t
earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Lock held: when the first of a queue has waited for too long. */
static int64_t
expires(struct crew *c, struct list *queue)
{
    struct lease *l = first_of(queue);
    return l != NULL ? l->wait_ns + c->queue_timeout_ns : INT64_MAX;
}

static int64_t
client_next_ns(void *self)
{
    struct crew *c = self;
    if (c->is_gathering)
        return 0;
    int64_t next = READ(c->idle_due_ns);
    if (READ(c->needs_turn) || READ(c->waiting) > 0) {
        bool is_deciding = false;
        crew_lock(c);
        if (crew_is_short(c)) {
            LIST_FOR_EACH(node, &c->holding) {
                is_deciding |= READ(CONTAINER_OF(node, struct lease, holding)->delivering) == 0;
            }
        }
        if (c->waiting > 0) {
            if (c->queue_timeout_ns > 0)
                next = earlier(next, earlier(expires(c, &c->wait_kept), expires(c, &c->wait_new)));
            next = earlier(next, alarm_due_ns(c));
            if (c->retry_ns != 0 && c->needy > 0)
                next = earlier(next, c->retry_ns);
            if (c->is_holding_back) {
                is_deciding |= headway_is_coming(c);
                next = earlier(next, headway_due_ns(c));
            }
        }
        crew_unlock(c);
        if (is_deciding)
            return 0;
        next = earlier(next, blocked_due_ns(c));
    }
    return next == INT64_MAX ? -1 : next;
}

const struct loop_client crew_client = {
    .turn = client_turn,
    .has_work = client_has_work,
    .run = client_run,
    .next_ns = client_next_ns,
};
