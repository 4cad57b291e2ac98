/* test_metrics.c: the area that all processes share, its blocks and histograms. */
#include "metrics/metrics.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "metrics/pulse.h"
#include "tap.h"

static uint64_t
accepted(const struct metrics *m, unsigned slot)
{
    uint64_t n = 0;
    METRICS_EACH(b, (struct metrics *)m)
        if (b->worker.slot == slot)
            n += metrics_get(&b->loop.accepted);
    return n;
}

static void
test_blocks(void)
{
    int fd = -1;
    struct metrics *m = metrics_new(&fd);
    if (!ok(m != NULL, "an area"))
        return;
    CHECK(m->layout == METRICS_LAYOUT && m->block_bytes == sizeof(struct metrics_block));
    struct metrics_block *zero = metrics_take(m, 0, 1, 100), *one = metrics_take(m, 1, 1, 100);
    CHECK(zero != one && zero->worker.slot == 0 && one->worker.slot == 1);
    metrics_add(&zero->loop.accepted, 5);
    metrics_set(&zero->loop.conns_idle, 3);
    metrics_add(&one->loop.accepted, 7);
    pulse_turns(zero, 200);

    struct metrics_block *replacement = metrics_take(m, 0, 2, 300);
    ok(replacement != zero && replacement != one, "two workers of a slot have a block each");
    metrics_add(&replacement->loop.accepted, 10);
    metrics_give(zero, 0, 50);
    CHECK(accepted(m, 0) == 15 && accepted(m, 1) == 7);
    CHECK(metrics_get(&zero->loop.conns_idle) == 0);

    struct metrics_block *again = metrics_take(m, 0, 3, 400);
    ok(again == zero, "the slot's free block is taken again");
    ok(metrics_get(&again->loop.accepted) == 5, "and counts on");
    ok(again->pulse.turns == 0 && metrics_get(&again->worker.cpu_ns) == 50,
       "with a heartbeat of its own");
    metrics_give(one, 0, 0);
    struct metrics_block *two = metrics_take(m, 2, 3, 400);
    ok(two != one, "the block of another slot is not taken");

    unsigned n = 0;
    while (metrics_take(m, 3, 1, 1) != NULL && n <= METRICS_BLOCKS_MAX)
        n++;
    CHECK(n == METRICS_BLOCKS_MAX - 4);
    metrics_give(NULL, 0, 0);
    metrics_free(m);
    metrics_free(NULL);
    close(fd);
}

/* Another program: its own mapping of the same memory. */
static void
test_adopted(void)
{
    int fd = -1, other = -1;
    struct metrics *m = metrics_new(&fd), *next = metrics_adopt(fd);
    if (!ok(m != NULL && next != NULL && next != m, "an area, mapped twice"))
        return;
    struct metrics_block *mine = metrics_take(m, 0, 1, 1);
    metrics_add(&mine->loop.accepted, 2);
    struct metrics_block *its = metrics_take(next, 0, 1, 2);
    metrics_add(&its->loop.accepted, 3);
    CHECK(next->blocks_n == 2 && accepted(m, 0) == 5 && accepted(next, 0) == 5);
    metrics_give(mine, 0, 0);
    struct metrics_block *again = metrics_take(next, 0, 1, 3);
    ok(again == &next->blocks[0] && next->blocks_n == 2, "what one gives the other takes");

    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    its->worker.pid = pid;
    metrics_sweep(m);
    ok(its->worker.state != METRICS_FREE, "a process that nobody has waited for has its block");
    waitpid(pid, NULL, 0);
    again->worker.pid = getpid();
    metrics_sweep(m);
    CHECK(its->worker.state == METRICS_FREE && again->worker.state != METRICS_FREE);
    metrics_give(again, pid, 0);
    ok(again->worker.state != METRICS_FREE, "a block that is another's by now stays his");
    CHECK(accepted(m, 0) == 5);

    m->block_bytes++;
    ok(metrics_adopt(fd) == NULL, "one of another layout is not taken");
    other = memfd_create("other", 0);
    ok(metrics_adopt(other) == NULL && metrics_adopt(-1) == NULL, "nor what is none");
    close(other);
    close(fd);
    metrics_free(m);
    metrics_free(next);
}

static void
test_processes(void)
{
    int fd = -1;
    struct metrics *m = metrics_new(&fd);
    struct metrics_block *b = metrics_take(m, 0, 1, 1);
    pid_t pid = fork();
    if (pid == 0) {
        metrics_begin(m, b);
        metrics_add(&metrics_here->loop.accepted, 3);
        _exit(metrics_area() == m ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    ok(status == 0 && metrics_get(&b->loop.accepted) == 3, "a child's counters are seen");
    CHECK(metrics_here == &metrics_nowhere && metrics_area() == NULL);
    metrics_free(m);
    close(fd);
}

static void
test_blocked(void)
{
    static struct metrics_block b;
    static char longer[1024];
    struct metrics_blocked got;
    uint32_t number = b.blocked.number;
    metrics_begin(NULL, &b);
    ok(!metrics_read_blocked(&b, &number, &got), "nothing has blocked the loop");
    metrics_tell_blocked(5, "by", "GET /", "a.py:1", "do not");
    ok(metrics_read_blocked(&b, &number, &got) && metrics_get(&got.held_ns) == 5,
       "then something has");
    CHECK(strcmp(got.by, "by") == 0 && strcmp(got.request, "GET /") == 0);
    CHECK(strcmp(got.place, "a.py:1") == 0 && strcmp(got.cure, "do not") == 0);
    ok(!metrics_read_blocked(&b, &number, &got), "it is read once");

    memset(longer, 'x', sizeof(longer) - 1);
    memcpy(longer + sizeof(got.request) - 2, "\xc3\xa4", 2); /* one character */
    metrics_tell_blocked(6, longer, longer, longer, longer);
    CHECK(metrics_read_blocked(&b, &number, &got));
    ok(strlen(got.request) == sizeof(got.request) - 2,
       "what is too long ends with a whole character");
    CHECK(strlen(got.by) == sizeof(got.by) - 1);

    b.blocked.number = number + 1; /* a worker died while it wrote */
    memset(b.blocked.by, 'x', sizeof(b.blocked.by));
    ok(!metrics_read_blocked(&b, &number, &got), "half of one is not read");
    metrics_tell_blocked(7, "by", "", "", "");
    ok(metrics_read_blocked(&b, &number, &got) && strcmp(got.by, "by") == 0, "the next one is");
    memset(b.blocked.by, 'x', sizeof(b.blocked.by));
    b.blocked.number += 2;
    ok(metrics_read_blocked(&b, &number, &got) && strlen(got.by) == sizeof(got.by) - 1,
       "what a worker has written there ends in any case");
    metrics_begin(NULL, &metrics_nowhere);
}

static void
test_histogram(void)
{
    static struct metrics_histogram h;
    const int64_t times[] = { -5, 0, 100000, 100001, 60000000000, 60000000001, INT64_MAX / 2 };
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
        metrics_observe(&h, times[i]);
    ok(metrics_get(&h.buckets[0]) == 3, "a bound belongs to its bucket");
    CHECK(metrics_get(&h.buckets[1]) == 1);
    CHECK(metrics_get(&h.buckets[METRICS_BUCKETS - 1]) == 1);
    CHECK(metrics_get(&h.buckets[METRICS_BUCKETS]) == 2);
    for (int i = 1; i < METRICS_BUCKETS; i++)
        if (metrics_bounds_ns[i - 1] >= metrics_bounds_ns[i])
            ok(0, "bounds rise");
}

static void
test_layout(void)
{
    ok(offsetof(struct metrics_block, pulse) % 128 == 0 &&
           offsetof(struct metrics_block, loop) % 128 == 0 &&
           offsetof(struct metrics_block, pools[1]) % 128 == 0 &&
           offsetof(struct metrics_block, routes) % 128 == 0,
       "what different threads write lies apart");
}

int
main(void)
{
    test_blocks();
    test_adopted();
    test_processes();
    test_blocked();
    test_histogram();
    test_layout();
    return tap_done();
}
