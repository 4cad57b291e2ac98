/* test_io_wake.c: waking the loop from other threads and from signal handlers, and how long io_wait() sleeps. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/time.h>

#include "io_test.h"

static double
wait_ms(int64_t timeout_ns)
{
    int64_t start = clock_ns();
    io_wait(io, timeout_ns);
    return (double)(clock_ns() - start) / NS_PER_MS;
}

/* Whether it sleeps as long as it is told. A wait may return early now and then (the kernel interrupts us when it is done with
 * a ring that was closed a moment ago), but not again and again. */
static bool
sleeps_30ms(void)
{
    for (int i = 0; i < 5; i++) {
        double ms = wait_ms(30 * NS_PER_MS);
        if (ms >= 29.9)
            return ms < 1000;
    }
    return false;
}

static void
test_timeouts(void)
{
    double ms, least = 1000;
    io_wait(io, 0);
    ok(wait_ms(0) < 50, "%s: 0 does not sleep", io_is);
    ok(sleeps_30ms(), "%s: 30 ms is 30 ms", io_is);
    for (int i = 0; i < 20; i++) {
        ms = wait_ms(NS_PER_MS / 5);
        least = ms < least ? ms : least;
    }
    ok(least < 1, "%s: a fifth of a millisecond is not rounded up (%.3f)", io_is, least);
}

/* What a backend does for itself (the first look at a writable socket, the change of a poll) must not end a sleep. */
static void
test_undisturbed(void)
{
    int p[2];
    struct rec w, l;
    bool is_quiet = false;
    for (int i = 0; i < 5 && !is_quiet; i++) {
        make_pair(p);
        rec_init(&w, rec_fn);
        rec_init(&l, rec_fn);
        io_watch(io, &w.op, p[0]);
        io_poll(io, &l.op, p[1], POLLIN);
        is_quiet = wait_ms(30 * NS_PER_MS) >= 29.9;
        io_poll_change(io, &l.op, 0);
        is_quiet = is_quiet && wait_ms(30 * NS_PER_MS) >= 29.9;
        io_cancel(io, &w.op);
        io_cancel(io, &l.op);
        WAIT_UNTIL(w.ends && l.ends);
        close(p[0]);
        close(p[1]);
    }
    ok(is_quiet, "%s: a new watch and a changed poll do not end the sleep", io_is);
}

static void
test_wake_before(void)
{
    io_wake(io);
    io_wake(io);
    ok(wait_ms(2 * NS_PER_S) < 1000, "%s: a wake-up before io_wait() makes it return", io_is);
    ok(sleeps_30ms(), "%s: once", io_is);
    io_wake(io);
    io_wait(io, 0);
    ok(sleeps_30ms(), "%s: a look takes note of it, too", io_is);
}

static atomic_bool is_rung;

static void *
wake_once(void *arg)
{
    usleep(20000);
    atomic_store(&is_rung, true);
    io_wake(arg);
    return NULL;
}

static void
test_wake_sleeper(void)
{
    static const int64_t timeouts[] = { 5 * NS_PER_S, -1 };
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        atomic_store(&is_rung, false);
        int64_t start = clock_ns();
        alarm(10);
        pthread_create(&thread, NULL, wake_once, io);
        while (!atomic_load(&is_rung))
            io_wait(io, timeouts[i]);
        int64_t ms = (clock_ns() - start) / NS_PER_MS;
        pthread_join(thread, NULL);
        alarm(0);
        ok(ms < 4000, "%s: a sleeper %s is woken (%lld ms)", io_is,
           i == 0 ? "with a timeout" : "without one", (long long)ms);
    }
}

/* Threads post numbers and wake; the owner sleeps without a timeout whenever it has taken all it saw. A lost wake-up hangs
 * until the alarm. */
enum { THREADS = 4, POSTS = 20000 };

static atomic_long posted;

static void *
hammer(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)&arg;
    for (int i = 0; i < POSTS; i++) {
        atomic_fetch_add(&posted, 1);
        io_wake(io);
        if (rand_r(&seed) % 64 == 0)
            usleep(rand_r(&seed) % 50);
    }
    return NULL;
}

static void
test_hammer(void)
{
    pthread_t threads[THREADS];
    atomic_store(&posted, 0);
    alarm(30);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, hammer, NULL);
    long waits = 0;
    while (atomic_load_explicit(&posted, memory_order_relaxed) < (long)THREADS * POSTS) {
        io_wait(io, -1);
        waits++;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    alarm(0);
    ok(1, "%s: %d posts from %d threads, none slept over (%ld waits)", io_is, THREADS * POSTS,
       THREADS, waits);
}

/* The same with one post at a time, each answered before the next: every single one must wake. */
static atomic_long answered;

static void *
ping(void *arg)
{
    (void)arg;
    for (long i = 1; i <= 3000; i++) {
        atomic_store(&posted, i);
        io_wake(io);
        while (atomic_load(&answered) < i)
            sched_yield();
    }
    return NULL;
}

static void
test_ping(void)
{
    pthread_t thread;
    atomic_store(&posted, 0);
    atomic_store(&answered, 0);
    alarm(30);
    pthread_create(&thread, NULL, ping, NULL);
    while (atomic_load(&answered) < 3000) {
        io_wait(io, -1);
        atomic_store(&answered, atomic_load_explicit(&posted, memory_order_relaxed));
    }
    pthread_join(thread, NULL);
    alarm(0);
    ok(1, "%s: 3000 single posts, each woke", io_is);
}

/* --- signals -------------------------------------------------------------------------------------------------------*/

static struct io *signal_io;
static volatile sig_atomic_t signals;

static void
on_signal(int sig)
{
    (void)sig;
    signals = signals + 1;
    if (signal_io != NULL)
        io_wake(signal_io);
}

static void
test_signal(void)
{
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGALRM, &act, NULL);
    struct itimerval in20ms = { .it_value.tv_usec = 20000 };
    signals = 0;
    signal_io = NULL;
    setitimer(ITIMER_REAL, &in20ms, NULL);
    int64_t start = clock_ns();
    while (signals < 1 && clock_ns() - start < 4 * NS_PER_S)
        io_wait(io, 5 * NS_PER_S);
    ok(signals == 1 && clock_ns() - start < 4 * NS_PER_S, "%s: a signal ends the sleep", io_is);

    /* Also when something is submitted in the same call. */
    int p[2];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    io_watch(io, &r.op, p[0]);
    setitimer(ITIMER_REAL, &in20ms, NULL);
    start = clock_ns();
    while (signals < 2 && clock_ns() - start < 4 * NS_PER_S)
        io_wait(io, 5 * NS_PER_S);
    ok(signals == 2 && clock_ns() - start < 4 * NS_PER_S, "%s: also with a submission", io_is);

    signal_io = io;
    setitimer(ITIMER_REAL, &in20ms, NULL);
    start = clock_ns();
    while (signals < 3 && clock_ns() - start < 4 * NS_PER_S)
        io_wait(io, 5 * NS_PER_S);
    ok(signals == 3 && clock_ns() - start < 4 * NS_PER_S, "%s: io_wake() from a handler", io_is);
    raise(SIGUSR1);
    ok(wait_ms(5 * NS_PER_S) < 4000, "%s: also before the sleep", io_is);

    /* Signals at any moment: each handler wakes, so that each is seen. */
    struct itimerval often = { .it_value.tv_usec = 100, .it_interval.tv_usec = 100 };
    sig_atomic_t seen = signals, until = signals + 2000;
    setitimer(ITIMER_REAL, &often, NULL);
    start = clock_ns();
    while (seen < until && clock_ns() - start < 20 * NS_PER_S) {
        io_wait(io, -1);
        seen = signals;
    }
    setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
    ok(seen >= until, "%s: 2000 signals, none slept over", io_is);
    signal_io = NULL;
    signal(SIGALRM, SIG_DFL);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);
    close(p[1]);
}

int
main(void)
{
    EACH_BACKEND(test_timeouts);
    EACH_BACKEND(test_undisturbed);
    EACH_BACKEND(test_wake_before);
    EACH_BACKEND(test_wake_sleeper);
    EACH_BACKEND(test_hammer);
    EACH_BACKEND(test_ping);
    EACH_BACKEND(test_signal);
    return tap_done();
}
