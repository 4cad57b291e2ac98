/* two_threads.c: what it costs that one thread wakes another, sleeps, and is woken by it: CPU time of the process for each such round
 * trip, by bare futexes. For `make bench`: what a crossing to a pool thread and back cannot go below on that machine, as long as it finds
 * both asleep. tests/bench/crossing.py builds and runs it.
 *
 *     two_threads ROUND_TRIPS
 *
 * One pass warms; the second prints microseconds. Exit code 1 and a line on standard error where a thread cannot be had. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_int there, back; /* how many round trips were begun, and have come back */
static int round_trips;

static void
wait_for(atomic_int *counter, int value)
{
    while (atomic_load(counter) < value)
        syscall(SYS_futex, counter, FUTEX_WAIT_PRIVATE, value - 1, NULL, NULL, 0);
}

static void
say(atomic_int *counter, int value)
{
    atomic_store(counter, value);
    syscall(SYS_futex, counter, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *
answer(void *unused)
{
    for (int i = 1; i <= round_trips; i++) {
        wait_for(&there, i);
        say(&back, i);
    }
    return unused;
}

static double
cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Microseconds of CPU for each round trip. */
static double
measure(void)
{
    pthread_t other;
    atomic_store(&there, 0);
    atomic_store(&back, 0);
    if (pthread_create(&other, NULL, answer, NULL) != 0) {
        fprintf(stderr, "two_threads: no thread can be had\n");
        exit(1);
    }
    double began = cpu_us();
    for (int i = 1; i <= round_trips; i++) {
        say(&there, i);
        wait_for(&back, i);
    }
    double took = cpu_us() - began;
    pthread_join(other, NULL);
    return took / round_trips;
}

int
main(int argc, char **argv)
{
    round_trips = argc == 2 ? atoi(argv[1]) : 0;
    if (round_trips < 1) {
        fprintf(stderr, "usage: two_threads ROUND_TRIPS\n");
        return 1;
    }
    measure();
    printf("%.3f\n", measure());
    return 0;
}
