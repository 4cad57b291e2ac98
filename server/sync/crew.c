/* crew.c: threads, slots and leases: who runs what, when.
 *
 * A lease that has jobs and no slot waits, oldest first: in wait_kept where it has a thread already, in wait_new where it needs one.
 * crew_dispatch() serves both as one queue by the time of arrival; only where no thread can be had does a lease of wait_kept pass one
 * of wait_new. Whatever makes a slot or a thread free calls it, also the thread itself when its job is done: it then finds its next
 * job in its own hands without a trip to the loop.
 *
 *     lease:   nothing ─submit─> waiting ─slot, thread─> running ─> holding ─8 turns─> parked ─submit─> waiting
 *                                                          │           └─submit─> running
 *                                                          └─closed, no job left─> nothing (thread free or the next lease's)
 *
 * Wake-ups. A thread that is woken while the loop holds the GIL runs into it at once and sleeps again: two switches and four system
 * calls for nothing. So the loop wakes it when it has given the GIL away (loop_do_late()). A callback that does not return to the loop,
 * because it waits for the very job, would wait for ever; therefore only threads whose sleep has an alarm are woken late (ALARM_NS).
 *
 * A thread for batched jobs that are handed over while the loop reads from its connections is woken at the end of that: it finds all
 * of them then, instead of going to sleep after each.
 *
 * Holding back. A lease that would need one more thread waits while the others make headway (headway.c). Batched jobs need the loop for
 * nothing: a thread takes the next by itself and keeps the GIL, and where that makes no headway one idle thread, the scout, is sent for
 * the GIL, and takes the oldest job once it has it. A scout that got it soon sends the next: jobs wait, so that it pays to have
 * more of them under way. Other jobs alternate with the loop, a lease at a time, which costs the fewest switches while both have little to do;
 * where the loop is busy with other things, as many as there are slots begin once a turn.
 *
 * Runs on:  any thread, with or without the GIL, unless a function says otherwise.
 * Owns:     the crew; threads live on their own stacks, leases and jobs in their owners. */
#include "sync/crew.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>

enum { WAKES_AT_ONCE = 16 };

/* --- sleeping and waking ------------------------------------------------------------------------ */

static bool
is_awake(struct sync_thread *t)
{
    return atomic_load(&t->sleep) == AWAKE;
}

static void
futex_wait(struct sync_thread *t, const struct timespec *timeout)
{
    unsigned asleep = ASLEEP;
    if (atomic_compare_exchange_strong(&t->sleep, &asleep, ASLEEP_IN_KERNEL) ||
        asleep == ASLEEP_IN_KERNEL)
        syscall(SYS_futex, &t->sleep, FUTEX_WAIT_PRIVATE, ASLEEP_IN_KERNEL, timeout, NULL,
                0); /* EINTR, EAGAIN: the caller looks again */
}

/* The thread may be gone already; then this wakes nobody. */
static void
futex_wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Lock held. A no-op for a thread that is awake: it looks at what it has to do before it sleeps. */
static void
wake(struct crew *c, struct sync_thread *t)
{
    if (!t->is_asleep)
        return;
    t->is_asleep = false;
    list_add_tail(&c->wakes, &t->wake);
}

/* Lock held: takes up to n threads off the list and lets them go on; their futexes are still to be woken. */
static size_t
take_wakes(struct list *list, atomic_uint **words, size_t n)
{
    size_t taken = 0;
    while (taken < n && !list_is_empty(list)) {
        struct sync_thread *t = CONTAINER_OF(list_pop(list), struct sync_thread, wake);
        atomic_uint *word = &t->sleep;
        if (atomic_exchange(word, AWAKE) == ASLEEP_IN_KERNEL)
            words[taken++] = word;
    }
    return taken;
}

static void
wake_put_off(struct crew *c)
{
    atomic_uint *words[WAKES_AT_ONCE];
    size_t n;
    do {
        pthread_mutex_lock(&c->lock);
        n = take_wakes(&c->late_wakes, words, WAKES_AT_ONCE);
        pthread_mutex_unlock(&c->lock);
        for (size_t i = 0; i < n; i++)
            futex_wake(words[i]);
    } while (n == WAKES_AT_ONCE);
}

/* The loop has given the GIL away. */
static void
wake_late(struct loop_late *late)
{
    struct crew *c = CONTAINER_OF(late, struct crew, late);
    wake_put_off(c);
    crew_release(c);
}

void
crew_wake_gathered(struct crew *c)
{
    if (!READ(c->is_gathering))
        return;
    WRITE(c->is_gathering, false);
    wake_put_off(c);
}

/* Lock held; loop's thread. The crew stays until then: its threads, woken by their alarms, may have left it. */
static bool
wakes_late(struct crew *c)
{
    bool was_noted = c->late.is_noted;
    if (!loop_do_late(c->loop, &c->late))
        return false;
    if (!was_noted)
        atomic_fetch_add(&c->refs, 1);
    return true;
}

/* Lock held; loop's thread. Moves those wake-ups that can come later. */
static void
put_off(struct crew *c)
{
    LIST_FOR_EACH_SAFE(node, &c->wakes) {
        struct sync_thread *t = CONTAINER_OF(node, struct sync_thread, wake);
        bool is_late = t->has_alarm && wakes_late(c);
        if (!is_late && t->next != NULL && t->next->is_batched && c->is_attached &&
            loop_is_released(c->loop)) {
            is_late = true;
            if (!c->is_gathering) {
                WRITE(c->is_gathering, true);
                c->gathering_ns = clock_ns();
            }
        }
        if (is_late) {
            list_del(node);
            list_add_tail(&c->late_wakes, node);
        }
    }
}

/* Lock held: for who looks at the metrics. */
static void
show(struct crew *c)
{
    struct metrics_crew *m = c->metrics;
    size_t free_n = c->idle_n + c->starting_n;
    metrics_set(&m->threads, c->threads_n);
    metrics_set(&m->slots, c->slots);
    metrics_set(&m->busy, c->slots_used);
    metrics_set(&m->leased, c->threads_n > free_n ? c->threads_n - free_n : 0);
    metrics_set(&m->waiting, c->waiting);
}

static void
unlock(struct crew *c, bool wakes_loop)
{
    show(c);
    if (c->loop != NULL) {
        if (!list_is_empty(&c->wakes) && loop_runs_here(c->loop))
            put_off(c);
        if (c->needs_turn && wakes_loop && c->is_attached && loop_runs_elsewhere(c->loop))
            loop_wake(c->loop);
    }
    if (LIKELY(list_is_empty(&c->wakes))) {
        pthread_mutex_unlock(&c->lock);
        return;
    }
    atomic_uint *words[WAKES_AT_ONCE];
    for (;;) {
        size_t n = take_wakes(&c->wakes, words, WAKES_AT_ONCE);
        pthread_mutex_unlock(&c->lock);
        for (size_t i = 0; i < n; i++)
            futex_wake(words[i]);
        if (n < WAKES_AT_ONCE)
            return;
        pthread_mutex_lock(&c->lock);
    }
}

void
crew_unlock(struct crew *c)
{
    unlock(c, true);
}

/* Lock held: the thread is about to call crew_sleep(). */
static void
fall_asleep(struct sync_thread *t)
{
    t->is_asleep = true;
    t->has_alarm = true;
    atomic_store(&t->sleep, ASLEEP);
}

/* Lock held: its lease has no job. */
static bool
is_idle_of_lease(const struct sync_thread *t)
{
    return t->lease != NULL && t->lease->running == NULL;
}

/* Where nobody wakes the thread by then, and it still belongs to a lease, it wakes itself for on_park. */
static void
sleep_until_parked(struct crew *c, struct sync_thread *t, int64_t due_ns)
{
    int64_t left_ns;
    while (!is_awake(t) && (left_ns = due_ns - clock_ns()) > 0) {
        struct timespec left = { .tv_sec = left_ns / NS_PER_S, .tv_nsec = left_ns % NS_PER_S };
        futex_wait(t, &left);
    }
    pthread_mutex_lock(&c->lock);
    if (t->is_asleep && is_idle_of_lease(t)) {
        t->is_asleep = false;
        atomic_store(&t->sleep, AWAKE);
        t->was_parked = true;
        t->orders |= ORDER_PARK;
    }
    pthread_mutex_unlock(&c->lock);
}

static void
look_out(struct sync_thread *t)
{
    int64_t ns = lookout_ns(&t->lookout);
    if (ns == 0)
        return;
    int64_t until = clock_ns() + ns;
    while (!is_awake(t) && clock_ns() < until)
        lookout_pause();
    lookout_note(&t->lookout, is_awake(t));
}

void
crew_sleep(struct crew *c, struct sync_thread *t, bool is_soon)
{
    static const struct timespec alarm = { .tv_nsec = ALARM_NS };
    if (is_soon)
        look_out(t);
    if (!is_awake(t))
        futex_wait(t, &alarm);
    if (is_awake(t))
        return;
    int64_t park_ns = 0;
    pthread_mutex_lock(&c->lock);
    t->has_alarm = false;
    if (t->is_asleep) {
        park_ns = is_idle_of_lease(t) && !t->was_parked ? c->park_timeout_ns : 0;
    } else { /* its wake-up is late */
        list_del(&t->wake);
        atomic_store(&t->sleep, AWAKE);
    }
    pthread_mutex_unlock(&c->lock);
    if (park_ns > 0)
        sleep_until_parked(c, t, clock_ns() + park_ns);
    while (!is_awake(t))
        futex_wait(t, NULL);
}

/* Some milliseconds old, at a fifth of the price. */
static int64_t
coarse_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

/* --- leases: lock held -------------------------------------------------------------------------- */

static void
take_slot(struct crew *c, struct lease *l)
{
    l->has_slot = true;
    WRITE(l->slot_ns, coarse_ns());
    l->slot_jobs = 0;
    l->blocked_samples = 0;
    c->slots_used++;
}

static void
drop_slot(struct crew *c, struct lease *l)
{
    if (!l->has_slot)
        return;
    l->has_slot = false;
    c->slots_used--;
}

/* It has a slot and no job. */
static void
hold(struct crew *c, struct lease *l)
{
    list_add_tail(&c->holding, &l->holding);
    c->holding_n++;
}

static void
unhold(struct crew *c, struct lease *l)
{
    if (list_is_empty(&l->holding))
        return;
    list_del(&l->holding);
    c->holding_n--;
}

static void
join_wait(struct crew *c, struct lease *l)
{
    l->arrived = ++c->arrivals;
    l->wait_ns = clock_ns();
    l->is_waiting = true;
    if (l->thread == NULL) {
        list_add_tail(&c->wait_new, &l->wait);
        c->needy++;
        l->is_optional = CONTAINER_OF(l->jobs.next, struct sync_job, link)->is_optional;
        c->optional_n += l->is_optional;
    } else {
        list_add_tail(&c->wait_kept, &l->wait);
    }
    WRITE(c->waiting, c->waiting + 1);
}

static void
leave_wait(struct crew *c, struct lease *l)
{
    if (list_is_empty(&l->wait))
        return;
    list_del(&l->wait);
    WRITE(c->waiting, c->waiting - 1);
    if (l->thread == NULL) {
        c->needy--;
        c->optional_n -= l->is_optional;
    }
}

/* The thread becomes the lease's. */
static void
attach(struct crew *c, struct lease *l, struct sync_thread *t)
{
    l->thread = t;
    t->lease = l;
    t->is_new_to_lease = true;
    t->was_parked = false;
    t->is_clean = false;
    list_add_tail(&c->held, &l->held);
}

static void
end_check(struct crew *c, struct sync_thread *t)
{
    t->orders &= ~(unsigned)ORDER_CHECK;
    c->checks_n -= t->is_checked;
    t->is_checked = false;
}

/* The lease loses thread and slot. The thread is the caller's to place. */
static struct sync_thread *
detach(struct crew *c, struct lease *l)
{
    struct sync_thread *t = l->thread;
    unhold(c, l);
    drop_slot(c, l);
    list_del(&l->held);
    l->thread = NULL;
    l->gives_back = false;
    t->lease = NULL;
    t->orders &= ~(unsigned)ORDER_PARK;
    end_check(c, t);
    return t;
}

/* So many more run from now on, or fewer. */
static void
add_busy(struct crew *c, int n, int64_t now_ns)
{
    struct metrics_crew *m = c->metrics;
    if (c->busy_n > 0)
        metrics_add(&m->busy_ns, c->busy_n * (uint64_t)(now_ns - c->busy_at_ns));
    c->busy_at_ns = now_ns;
    c->busy_n += (size_t)n;
    metrics_set(&m->busy_at_ns, (uint64_t)now_ns);
    metrics_set(&m->busy_now, c->busy_n);
}

/* The lease has a thread that does nothing, a job that waits, and a slot unless the job runs apart. */
static void
begin(struct crew *c, struct lease *l)
{
    struct sync_thread *t = l->thread;
    ASSERT(t != NULL);
    unhold(c, l);
    l->running = CONTAINER_OF(list_pop(&l->jobs), struct sync_job, link);
    l->slot_jobs++;
    c->queued--;
    headway_begin(c);
    add_busy(c, 1, c->headway.begun_ns);
    metrics_add(&c->metrics->jobs, 1);
    if (l->is_waiting) {
        metrics_observe(&c->metrics->wait, c->headway.begun_ns - l->wait_ns);
        l->calls.wait_ns += c->headway.begun_ns - l->wait_ns;
    }
    l->calls.hops++;
    l->is_waiting = false;
    l->begun_ns = c->headway.begun_ns;
    t->next = l->running;
    t->jobs++;
    t->loop = c->loop;
    t->is_expected = !l->running->is_batched && c->loop != NULL;
    if (t->is_expected)
        loop_expect(c->loop, 1);
    t->was_parked = false;
    t->orders &= ~(unsigned)ORDER_PARK;
    end_check(c, t);
    wake(c, t);
}

/* The lease has a slot and wants to go on with its next job. Others wait, and it has gone on for long: they come first. */
static bool
has_had_its_turn(struct crew *c, struct lease *l)
{
    return c->waiting > 0 && l->slot_jobs >= TENURE_JOBS && coarse_ns() - l->slot_ns >= TENURE_NS &&
           crew_is_short(c);
}

static void
queue_again(struct crew *c, struct lease *l)
{
    unhold(c, l);
    drop_slot(c, l);
    join_wait(c, l);
    crew_dispatch(c);
}

/* --- threads: lock held -------------------------------------------------------------------------- */

static void
leave_idle(struct crew *c, struct sync_thread *t)
{
    list_del(&t->link);
    c->idle_n--;
    c->idle_used_n -= !t->is_clean;
}

void
crew_dismiss(struct crew *c, struct sync_thread *t)
{
    leave_idle(c, t);
    c->threads_n--;
    t->orders |= ORDER_LEAVE;
    wake(c, t);
}

static void
push_idle(struct crew *c, struct sync_thread *t)
{
    if (t->is_clean)
        list_add_tail(&c->idle, &t->link);
    else
        list_add_tail(c->idle.next, &t->link); /* before the first: last in, first out */
    c->idle_n++;
    c->idle_used_n += !t->is_clean;
    t->idle_since_ns = 0;
    if (c->idle_timeout_ns > 0 && c->threads_n > c->slots) {
        t->idle_since_ns = clock_ns();
        if (c->idle_due_ns == INT64_MAX) {
            WRITE(c->idle_due_ns, t->idle_since_ns + c->idle_timeout_ns);
            WRITE(c->needs_turn, true);
        }
    }
}

/* A thread that belongs to nobody, asleep or itself the caller: it gets the next lease, becomes idle, or leaves. */
static void
place(struct crew *c, struct sync_thread *t)
{
    push_idle(c, t);
    if (t->is_scout) { /* it is the one that is awake */
        list_del(&t->link);
        list_add_tail(c->idle.next, &t->link);
    }
    crew_dispatch(c);
    if (t->lease != NULL)
        return;
    if (t->is_scout && t->is_clean) {
        list_del(&t->link);
        list_add_tail(&c->idle, &t->link);
    }
    if (c->is_closed) {
        crew_dismiss(c, t);
    } else if (c->has_surplus_hook && c->idle_used_n > c->slots && !t->is_clean) {
        leave_idle(c, t);
        t->orders |= ORDER_SURPLUS;
        wake(c, t);
    }
}

/* Their number can have been made smaller than those in use. */
static size_t
free_slots(const struct crew *c)
{
    return c->slots > c->slots_used ? c->slots - c->slots_used : 0;
}

/* How many more threads there may be. */
static size_t
startable(struct crew *c)
{
    if (c->threads_n >= c->threads_max)
        return 0;
    if (UNLIKELY(c->retry_ns != 0)) {
        if (c->threads_n > 0 && clock_ns() < c->retry_ns)
            return 0;
        c->retry_ns = 0;
    }
    return c->threads_max - c->threads_n;
}

/* The lease whose turn it is, or NULL. There is a slot. */
static struct lease *
next_lease(struct crew *c)
{
    struct lease *kept =
        list_is_empty(&c->wait_kept) ? NULL : CONTAINER_OF(c->wait_kept.next, struct lease, wait);
    struct lease *new =
        list_is_empty(&c->wait_new) ? NULL : CONTAINER_OF(c->wait_new.next, struct lease, wait);
    if (new == NULL || (kept != NULL && kept->arrived < new->arrived))
        return kept;
    if (c->idle_n > 0)
        return new;
    if (kept == NULL)
        return NULL;
    /* Those before it that get a thread which is being started keep a slot each. */
    size_t coming = c->starting_n + c->checks_n + startable(c), slots = free_slots(c), n = 0;
    LIST_FOR_EACH(node, &c->wait_new) {
        if (n == coming || CONTAINER_OF(node, struct lease, wait)->arrived > kept->arrived)
            break;
        if (++n >= slots)
            return NULL;
    }
    return kept;
}

static void
count_wanted(struct crew *c)
{
    size_t slots = free_slots(c);
    size_t n = c->needy < slots ? c->needy : slots;
    size_t coming = c->starting_n + c->checks_n + c->idle_n + c->has_scout;
    n = n > coming ? n - coming : 0;
    if (n > 0) {
        size_t max = startable(c);
        n = n < max ? n : max;
    }
    if (n != c->wanted)
        WRITE(c->wanted, n);
    if (n > 0)
        WRITE(c->needs_turn, true);
}

static void
send_scout(struct crew *c)
{
    struct sync_thread *t = CONTAINER_OF(c->idle.next, struct sync_thread, link);
    leave_idle(c, t);
    t->orders |= ORDER_SCOUT;
    t->is_scout = true;
    c->has_scout = true;
    wake(c, t);
}

/* The lease would get a thread that sleeps. Is it better off without? */
static bool
holds_back(struct crew *c, struct lease *l, struct sync_thread *t, bool stands_still)
{
    /* Who is held back is looked after in the loop's turns. */
    if ((!t->is_asleep && !t->steps_back) || !c->is_attached || c->is_closed)
        return false;
    if (!CONTAINER_OF(l->jobs.next, struct sync_job, link)->is_batched)
        return !l->is_closed && !stands_still &&
               (headway_is_coming(c) || (c->busy_n > 0 && headway_is_made(c)));
    if (c->busy_n == 0)
        return false;
    if (!c->has_scout && !headway_is_made(c))
        send_scout(c);
    return true;
}

void
crew_dispatch(struct crew *c)
{
    bool stands_still = c->needy > 0 && headway_stands_still(c);
    WRITE(c->is_holding_back, false);
    while (c->waiting > 0 && free_slots(c) > 0) {
        struct lease *l = next_lease(c);
        if (l == NULL)
            break;
        if (l->thread == NULL &&
            holds_back(c, l, CONTAINER_OF(c->idle.next, struct sync_thread, link), stands_still)) {
            WRITE(c->is_holding_back, !c->has_scout);
            WRITE(c->needs_turn, true);
            if (list_is_empty(&c->wait_kept))
                break;
            l = CONTAINER_OF(c->wait_kept.next, struct lease, wait);
        }
        leave_wait(c, l);
        if (l->thread == NULL) {
            struct sync_thread *t = CONTAINER_OF(c->idle.next, struct sync_thread, link);
            leave_idle(c, t);
            attach(c, l, t);
        }
        take_slot(c, l);
        if (l->is_resuming) {
            l->is_resuming = false;
            wake(c, l->thread);
        } else {
            begin(c, l);
        }
    }
    if (c->needy > 0 || c->wanted > 0)
        count_wanted(c);
    if (c->waiting > 0 && c->holding_n > 0)
        WRITE(c->needs_turn, true); /* who is to be parked? */
}

bool
crew_has_no_thread(struct crew *c)
{
    return c->idle_n + c->starting_n + c->checks_n + startable(c) == 0;
}

bool
crew_is_short(struct crew *c)
{
    if (c->waiting == 0 || ((c->is_holding_back || c->has_scout) && free_slots(c) > 0))
        return false;
    if (c->optional_n > 0 && free_slots(c) == 0 && crew_has_no_thread(c))
        return true; /* optional jobs wait for a slot, but not for a thread: are there slots that nobody uses? */
    size_t coming = c->starting_n + c->checks_n + startable(c) + c->idle_n;
    size_t able = c->waiting - c->needy + (c->needy < coming ? c->needy : coming);
    return able > free_slots(c) || (c->affinity == AFFINITY_TRANSACTION && c->needy > coming);
}

/* A lease without job and slot also gives its thread back, where that is clean. */
static void
let_go(struct crew *c, struct lease *l)
{
    if (c->has_release_hook) {
        struct sync_thread *t = l->thread;
        c->checks_n += !t->is_checked;
        t->is_checked = true;
        t->orders |= ORDER_CHECK;
        wake(c, t);
    } else {
        place(c, detach(c, l));
    }
}

void
crew_park(struct crew *c, struct lease *l)
{
    drop_slot(c, l);
    if (l->running != NULL)
        return;
    unhold(c, l);
    if (c->affinity == AFFINITY_TRANSACTION)
        let_go(c, l);
}

/* Nothing of it waits, runs or will: its thread is free. */
static void
end_if_over(struct crew *c, struct lease *l)
{
    if (l->thread != NULL && l->running == NULL && list_is_empty(&l->jobs) &&
        list_is_empty(&l->wait))
        place(c, detach(c, l));
}

/* --- submitting ---------------------------------------------------------------------------------- */

void
crew_lease_init(struct lease *l, struct crew *c)
{
    l->crew = c;
    list_init(&l->jobs);
    list_init(&l->wait);
    list_init(&l->held);
    list_init(&l->holding);
    l->thread = NULL;
    l->running = NULL;
    l->delivered_turn = 0;
    l->delivering = 0;
    l->slot_ns = 0;
    l->slot_jobs = 0;
    l->ran_ns = 0;
    l->calls = (struct metrics_calls){ 0 };
    l->driver_ns = 0;
    l->is_in_driver = false;
    l->cancel_state = 0;
    l->has_slot = l->is_closed = l->is_paused = l->is_resuming = l->gives_back = false;
    l->label[0] = '\0';
}

/* For a line of a log: whole characters, none of which ends it. */
static void
copy_label(char *to, size_t size, const char *from)
{
    size_t n = 0;
    for (; n < size - 1 && from[n] != '\0'; n++) {
        unsigned char c = (unsigned char)from[n];
        to[n] = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    if (from[n] != '\0') /* UTF-8 that was cut in two */
        while (n > 0 && ((unsigned char)from[n] & 0xc0) == 0x80)
            n--;
    to[n] = '\0';
}

void
lease_init(struct lease *l, struct crew *crew, const char *label)
{
    crew_lease_init(l, crew);
    copy_label(l->label, sizeof l->label, label);
    __atomic_fetch_add(&live.leases, 1, __ATOMIC_RELAXED);
}

/* Jobs that wait only because they are held back do not count: threads for them are there. Lock held. */
static bool
is_queue_full(struct crew *c)
{
    if (LIKELY(c->queued < c->queue_max))
        return false;
    size_t slots = free_slots(c), threads = c->idle_n + c->has_scout;
    return !(c->is_holding_back || c->has_scout) ||
           c->queued - c->queue_max >= (slots < threads ? slots : threads);
}

int
crew_submit(struct lease *l, struct sync_job *job, enum submit how, bool *is_waiting)
{
    struct crew *c = l->crew;
    int err = 0;

    crew_lock(c);
    /* A request that has its thread has been let in: refused in its middle it could not even close what it has opened. So one job of each
     * has a place, and those are no more than there are threads. */
    bool has_place = l->thread != NULL && list_is_empty(&l->jobs);
    bool is_apart = how == SUBMIT_APART && has_place && l->running == NULL;
    if (c->is_closed) {
        err = -ESHUTDOWN;
    } else if (!has_place && is_queue_full(c)) {
        err = -EAGAIN;
        metrics_add(&c->metrics->refused_full, 1);
    } else {
        job->lease = l;
        job->is_optional = how == SUBMIT_OPTIONAL || how == SUBMIT_LAST;
        job->is_batched |= how == SUBMIT_LAST;
        job->is_out = false;
        list_add_tail(&l->jobs, &job->link);
        c->queued++;
        l->gives_back = how == SUBMIT_LAST;
        if (l->running == NULL && list_is_empty(&l->wait)) {
            if (is_apart) {
                drop_slot(c, l);
                begin(c, l);
                crew_dispatch(c);
            } else if (l->has_slot && !has_had_its_turn(c, l)) {
                begin(c, l);
            } else {
                queue_again(c, l);
            }
        }
        *is_waiting = !list_is_empty(&job->link);
        if (*is_waiting)
            WRITE(c->needs_turn, true); /* deadlines */
    }
    crew_unlock(c);
    return err;
}

bool
crew_has_queued(struct lease *l, struct sync_job *job)
{
    pthread_mutex_lock(&l->crew->lock);
    bool is_queued = !list_is_empty(&job->link);
    pthread_mutex_unlock(&l->crew->lock);
    return is_queued;
}

int
lease_submit(struct lease *l, struct sync_job *job)
{
    struct crew *c = l->crew;
    bool is_waiting;
    int err = crew_submit(l, job, SUBMIT, &is_waiting);
    if (c->is_gathering && clock_ns() - c->gathering_ns > GATHER_NS)
        crew_wake_gathered(c);
    return err;
}

bool
lease_withdraw(struct lease *l, struct sync_job *job)
{
    struct crew *c = l->crew;

    crew_lock(c);
    bool is_queued = !list_is_empty(&job->link);
    if (is_queued && (c->is_orphan || job->is_out)) {
        list_del(&job->link);
    } else if (is_queued) {
        list_del(&job->link);
        c->queued--;
        if (list_is_empty(&l->jobs) && !l->is_resuming) {
            leave_wait(c, l);
            if (l->is_closed)
                end_if_over(c, l);
            crew_dispatch(c);
        }
    }
    crew_unlock(c);
    return is_queued;
}

void
crew_lease_close(struct lease *l)
{
    struct crew *c = l->crew;

    crew_lock(c);
    l->is_closed = true;
    if (!c->is_orphan)
        end_if_over(c, l);
    crew_unlock(c);
}

void
lease_close(struct lease *l)
{
    crew_lease_close(l);
    __atomic_fetch_sub(&live.leases, 1, __ATOMIC_RELAXED);
}

/* Lock held; it has a thread, and no job. */
static void
give_back(struct crew *c, struct lease *l)
{
    unhold(c, l);
    drop_slot(c, l);
    l->gives_back = false;
    let_go(c, l);
    crew_dispatch(c);
}

void
crew_lease_give_back(struct lease *l)
{
    struct crew *c = l->crew;

    crew_lock(c);
    if (l->running != NULL || !list_is_empty(&l->jobs))
        l->gives_back = true;
    else if (l->thread != NULL && !c->is_orphan)
        give_back(c, l);
    crew_unlock(c);
}

void
crew_lease_keep(struct lease *l)
{
    crew_lock(l->crew);
    l->gives_back = false;
    crew_unlock(l->crew);
}

void
crew_lease_add(struct lease *l, int64_t cpu_ns)
{
    struct crew *c = l->crew;

    pthread_mutex_lock(&c->lock);
    l->calls.cpu_ns += cpu_ns;
    pthread_mutex_unlock(&c->lock);
}

size_t
crew_look_begin(struct crew *c, struct crew_look *looks, size_t max)
{
    size_t n = 0;

    pthread_mutex_lock(&c->lock);
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        if (l->running != NULL && n < max)
            looks[n++] = (struct crew_look){ l->thread, l->thread->jobs, l->thread->tid };
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

void
crew_look_end(struct crew *c, const struct crew_look *look, enum metrics_looked at, int64_t ns)
{
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        if (l->running != NULL && l->thread == look->thread && l->thread->jobs == look->jobs)
            l->calls.looked_ns[at] += ns;
        else
            continue;
        if (at == METRICS_LOOKED_GIL && READ(l->is_in_driver))
            l->calls.looked_driver_gil_ns += ns;
    }
}

void
crew_move(struct sync_job *job, struct lease *to, bool only_alone)
{
    struct lease *from = job->lease;
    struct crew *c = from->crew;

    crew_lock(c);
    if (!c->is_orphan && !(only_alone && !list_is_empty(&from->jobs))) {
        ASSERT(from->running == job && to->thread == NULL && list_is_empty(&to->jobs));
        to->thread = from->thread;
        to->thread->lease = to;
        list_del(&from->held);
        list_add_tail(&c->held, &to->held);
        to->running = job;
        to->begun_ns = from->begun_ns;
        to->calls = from->calls;
        to->cancel_state |= from->cancel_state;
        to->has_slot = from->has_slot;
        to->slot_ns = from->slot_ns;
        to->slot_jobs = from->slot_jobs;
        to->blocked_samples = from->blocked_samples;
        from->thread = NULL;
        from->running = NULL;
        from->has_slot = from->gives_back = false;
        job->lease = to;
    }
    crew_unlock(c);
}

/* --- a thread's side ----------------------------------------------------------------------------- */

void
crew_thread_init(struct sync_thread *t)
{
    list_init(&t->link);
    list_init(&t->wake);
    t->is_starting = true;
}

/* Lock held: the job has run. What becomes of lease and thread. */
static void
finish(struct crew *c, struct sync_thread *t)
{
    struct lease *l = t->lease;
    bool has_more = !list_is_empty(&l->jobs);

    int64_t now_ns = clock_ns();
    add_busy(c, l->is_paused ? 0 : -1, now_ns);
    l->ran_ns += now_ns - l->begun_ns;
    t->steps_back = headway_steps_back(c);
    l->running = NULL;
    l->is_paused = false;
    WRITE(l->delivered_turn, READ(c->turn));
    if (c->affinity == AFFINITY_CALL || (!has_more && (l->is_closed || c->is_closed))) {
        detach(c, l);
        if (has_more)
            join_wait(c, l);
        place(c, t);
    } else if (has_more) {
        if (l->has_slot && !has_had_its_turn(c, l))
            begin(c, l);
        else
            queue_again(c, l);
    } else if (l->gives_back) {
        give_back(c, l);
    } else if (l->has_slot) {
        hold(c, l);
    } else if (c->affinity == AFFINITY_TRANSACTION) {
        let_go(c, l);
    }
}

enum next
crew_next(struct crew *c, struct sync_thread *t, struct sync_job *done, unsigned *orders)
{
    enum next next;

    crew_lock(c);
    bool was_given = t->next != NULL;
    if (UNLIKELY(c->is_orphan)) {
        pthread_mutex_unlock(&c->lock);
        *orders = ORDER_LEAVE;
        return NEXT_ORDERS;
    }
    if (UNLIKELY(t->is_starting)) {
        t->is_starting = false;
        c->starting_n--;
    }
    bool was_scout = t->is_scout && t->orders == 0;
    if (was_scout)
        c->has_scout = false;
    if (done != NULL)
        finish(c, t);
    else if (t->lease == NULL && list_is_empty(&t->link) && t->orders == 0)
        place(c, t);
    t->steps_back = false;
    if (was_scout)
        t->is_scout = false;
    if (was_scout && t->is_soon && c->is_holding_back && c->idle_n > 0) {
        WRITE(c->is_holding_back, false);
        send_scout(c);
    }
    if (t->next != NULL) {
        next = NEXT_JOB;
    } else if (t->orders != 0) {
        *orders = t->orders;
        t->orders = 0;
        if (*orders != ORDER_SCOUT)
            t->is_clean = (*orders & ORDER_SURPLUS) != 0;
        next = NEXT_ORDERS;
    } else {
        next = NEXT_SLEEP;
        fall_asleep(t);
    }
    /* The end of a job wakes the loop, and who was woken for a job has changed nothing. */
    unlock(c, done == NULL && !was_given);
    return next;
}

void
crew_checked(struct crew *c, struct sync_thread *t, bool may_release)
{
    crew_lock(c);
    struct lease *l = t->lease;
    if (c->is_orphan) {
        crew_unlock(c);
        return;
    }
    end_check(c, t);
    if (may_release && l != NULL && l->running == NULL && !l->has_slot && list_is_empty(&l->jobs)) {
        place(c, detach(c, l));
    } else if (c->waiting > 0) { /* for threads, perhaps, this one among them */
        crew_dispatch(c);
        WRITE(c->needs_turn, true);
    }
    crew_unlock(c);
}

void
lease_pause(struct lease *l)
{
    struct crew *c = l->crew;

    crew_lock(c);
    if (!c->is_orphan && !l->is_paused) {
        l->is_paused = true;
        add_busy(c, -1, clock_ns());
        drop_slot(c, l);
        crew_dispatch(c);
    }
    crew_unlock(c);
}

void
lease_resume(struct lease *l)
{
    struct crew *c = l->crew;

    crew_lock(c);
    if (!l->is_paused || c->is_orphan) {
        crew_unlock(c);
        return;
    }
    struct sync_thread *t = l->thread;
    l->is_paused = false;
    add_busy(c, 1, clock_ns());
    l->is_resuming = true;
    join_wait(c, l);
    crew_dispatch(c);
    bool has_to_wait = !l->has_slot;
    if (has_to_wait) {
        fall_asleep(t);
        WRITE(c->needs_turn, true);
    }
    crew_unlock(c);
    if (has_to_wait)
        crew_sleep(c, t, false);
}

/* --- starting and ending ------------------------------------------------------------------------- */

bool
crew_begin_start(struct crew *c)
{
    crew_lock(c);
    bool is_wanted = c->wanted > 0;
    if (is_wanted) {
        c->threads_n++;
        c->starting_n++;
        metrics_add(&c->metrics->started, 1);
        if (c->threads_n > c->threads_peak)
            c->threads_peak = c->threads_n;
        count_wanted(c);
    }
    crew_unlock(c);
    return is_wanted;
}

size_t
crew_failed_start(struct crew *c)
{
    crew_lock(c);
    c->threads_n--;
    c->starting_n--;
    c->retry_ns = clock_ns() + START_RETRY_NS;
    WRITE(c->wanted, 0);
    crew_dispatch(c);
    size_t others = c->threads_n;
    crew_unlock(c);
    return others;
}

void
crew_close(struct crew *c)
{
    crew_lock(c);
    c->is_closed = true;
    if (!c->is_orphan) {
        LIST_FOR_EACH_SAFE(node, &c->held) {
            end_if_over(c, CONTAINER_OF(node, struct lease, held));
        }
        while (!list_is_empty(&c->idle))
            crew_dismiss(c, CONTAINER_OF(c->idle.next, struct sync_thread, link));
    }
    crew_unlock(c);
}

static void
take_jobs(struct crew *c, struct lease *l, struct list *jobs)
{
    struct list *node;
    while ((node = list_pop(&l->jobs)) != NULL) {
        c->queued--;
        CONTAINER_OF(node, struct sync_job, link)->is_out = true;
        list_add_tail(jobs, node);
    }
    if (!l->is_resuming)
        leave_wait(c, l);
}

void
crew_drop_queued(struct crew *c, struct lease *l, struct list *jobs)
{
    take_jobs(c, l, jobs);
    if (l->is_closed || c->is_closed)
        end_if_over(c, l);
}

void
crew_drop(struct crew *c, struct list *jobs, enum sync_drop why)
{
    for (;;) {
        /* a future that is cancelled in another thread, or by what drop() runs, takes its job away */
        crew_lock(c);
        struct list *node = list_pop(jobs);
        crew_unlock(c);
        if (node == NULL)
            return;
        struct sync_job *job = CONTAINER_OF(node, struct sync_job, link);
        job->drop(job, why);
    }
}

/* The loop's phase 3, or wherever a loop that has been closed gives its posts back. */
static void
drop_all(struct post *post, PyObject *loop)
{
    struct crew *c = CONTAINER_OF(post, struct crew, drop_post);
    struct list jobs;
    (void)loop;

    list_init(&jobs);
    crew_lock(c);
    c->is_dropping = false;
    list_splice(&jobs, &c->dropped);
    crew_unlock(c);
    crew_drop(c, &jobs, SYNC_DROP_CLOSED);
    crew_release(c);
}

void
crew_post_dropped(struct crew *c, PyObject *loop)
{
    crew_lock(c);
    LIST_FOR_EACH_SAFE(node, &c->wait_kept) {
        take_jobs(c, CONTAINER_OF(node, struct lease, wait), &c->dropped);
    }
    LIST_FOR_EACH_SAFE(other, &c->wait_new) {
        take_jobs(c, CONTAINER_OF(other, struct lease, wait), &c->dropped);
    }
    LIST_FOR_EACH_SAFE(third, &c->held) {
        struct lease *l = CONTAINER_OF(third, struct lease, held);
        take_jobs(c, l, &c->dropped);
        end_if_over(c, l);
    }
    bool has_any = !list_is_empty(&c->dropped) && !c->is_dropping;
    if (has_any) {
        c->is_dropping = true;
        atomic_fetch_add(&c->refs, 1);
    }
    crew_unlock(c);
    if (has_any)
        loop_post(loop, &c->drop_post);
}

/* --- life ---------------------------------------------------------------------------------------- */

static struct list all_crews = { &all_crews, &all_crews };

static void
init_lists(struct crew *c)
{
    pthread_mutex_init(&c->lock, NULL);
    list_init(&c->idle);
    list_init(&c->wait_new);
    list_init(&c->wait_kept);
    list_init(&c->held);
    list_init(&c->holding);
    list_init(&c->wakes);
    list_init(&c->late_wakes);
    list_init(&c->dropped);
    c->idle_due_ns = INT64_MAX;
    c->late = (struct loop_late){ .fn = wake_late };
}

/* In the child of a fork none of the threads exists, and one of them may have held the lock. Jobs, leases and threads are abandoned where
 * they are. */
static void
forked_child(void)
{
    LIST_FOR_EACH(node, &all_crews) {
        struct crew *c = CONTAINER_OF(node, struct crew, all);
        init_lists(c);
        c->queued = c->waiting = c->needy = c->optional_n = c->holding_n = c->slots_used = 0;
        c->idle_n = c->idle_used_n = c->threads_n = c->starting_n = c->wanted = 0;
        c->needs_turn = c->has_scout = c->is_holding_back = false;
        c->busy_n = 0;
        c->is_closed = c->is_orphan = true;
        c->metrics = &metrics_nowhere.pools[0].crew;
    }
}

static void
watch_forks_once(void)
{
    if (pthread_atfork(NULL, NULL, forked_child) != 0)
        log_warning("pthread_atfork failed: a child of os.fork() must not use the thread pools of "
                    "its parent");
}

void
crew_release(struct crew *c)
{
    if (atomic_fetch_sub(&c->refs, 1) == 1)
        crew_end(c);
}

void
crew_free(struct crew *c)
{
    list_del(&c->all);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

struct crew *
crew_new(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks_once);
    struct crew *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    init_lists(c);
    c->metrics = &metrics_nowhere.pools[0].crew;
    atomic_init(&c->refs, 1);
    c->drop_post.fn = drop_all;
    list_add_tail(&all_crews, &c->all);
    return c;
}
