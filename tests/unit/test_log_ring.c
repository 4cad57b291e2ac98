/* test_log_ring.c: lines between two processes: order, fullness, many threads, a writer that dies in the middle, a reader that sleeps. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"
#include "tap.h"

static struct log_ring *ring;

static void
test_round(void)
{
    struct log_taken line;
    uint64_t torn = 0, taken = 0, put = 0;
    char text[3000];
    unsigned seed = 1;
    memset(text, 'x', sizeof(text));
    bool is_right = true;
    /* Several times around, with lines of every length. */
    for (int i = 0; i < 20000; i++) {
        size_t n = (seed = seed * 1103515245 + 12345) / 65536 % sizeof(text);
        n = n < 16 ? 16 : n;
        snprintf(text, 16, "%15llu", (unsigned long long)put);
        text[15] = ' ';
        is_right &= log_ring_put(ring, LOG_TO_ACCESS, i, text, n);
        put++;
        if (i % 7 != 0)
            continue;
        while (log_ring_look(ring, false, &line, &torn)) {
            is_right &= strtoull(line.p, NULL, 10) == taken && line.n >= 16 &&
                        line.kind == LOG_TO_ACCESS && line.at_ns == (int64_t)taken;
            log_ring_step(ring, &line);
            taken++;
        }
    }
    while (log_ring_look(ring, false, &line, &torn)) {
        log_ring_step(ring, &line);
        taken++;
    }
    ok(is_right && taken == put && torn == 0, "lines come out as they went in, in order");
    bool is_zero = true;
    for (size_t i = 0; i < sizeof(ring->data); i++)
        is_zero &= ring->data[i] == 0;
    ok(is_zero, "and nothing stays behind");
}

static void
test_full(void)
{
    struct log_taken line;
    uint64_t torn = 0;
    char text[1000] = { 0 };
    unsigned n = 0;
    while (log_ring_put(ring, LOG_TO_ERROR, 0, text, sizeof(text)))
        n++;
    ok(n > 2000 && atomic_load(&ring->lost) == 1, "a full ring takes no more, and counts");
    ok(log_ring_look(ring, false, &line, &torn), "it has lines");
    log_ring_step(ring, &line);
    ok(log_ring_put(ring, LOG_TO_ERROR, 0, text, sizeof(text)), "room for one is room for one");
    for (; log_ring_look(ring, false, &line, &torn); n--)
        log_ring_step(ring, &line);
    ok(n == 0 && torn == 0, "none of them is lost");
}

enum { THREADS = 4, LINES = 20000 };

static void *
write_lines(void *arg)
{
    char text[64];
    for (int i = 0; i < LINES; i++) {
        int n = snprintf(text, sizeof(text), "%d %d", (int)(intptr_t)arg, i);
        while (!log_ring_put(ring, LOG_TO_ERROR, 0, text, (size_t)n))
            sched_yield();
    }
    return NULL;
}

static void
test_threads(void)
{
    pthread_t threads[THREADS];
    struct log_taken line;
    uint64_t torn = 0;
    int next[THREADS] = { 0 }, total = 0;
    bool is_right = true;
    for (intptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, write_lines, (void *)i);
    while (total < THREADS * LINES) {
        if (!log_ring_look(ring, false, &line, &torn)) {
            sched_yield();
            continue;
        }
        int who, i;
        char text[64];
        memcpy(text, line.p, line.n);
        text[line.n] = '\0';
        is_right &= sscanf(text, "%d %d", &who, &i) == 2 && who < THREADS && next[who]++ == i;
        log_ring_step(ring, &line);
        total++;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ok(is_right && torn == 0, "every line of every thread, each thread's in order");
}

/* A process that is killed while its threads write: all that log_ring_put() had returned from is there. */
static void
test_killed(void)
{
    bool is_right = true;
    uint64_t torn = 0;
    for (int round = 0; round < 30; round++) {
        struct log_ring *shared = ring, *counts = log_ring_new(NULL); /* as shared memory */
        _Atomic uint64_t *done = (_Atomic uint64_t *)counts->data;
        pid_t pid = fork();
        if (pid == 0) {
            for (uint64_t i = 0;; i++) {
                char text[200];
                memset(text, 'y', sizeof(text));
                snprintf(text, sizeof(text), "%llu", (unsigned long long)i);
                while (!log_ring_put(shared, LOG_TO_ERROR, 0, text, 20 + i % 180))
                    ;
                atomic_store(done, i + 1);
            }
        }
        uint64_t taken = 0;
        struct log_taken line;
        int64_t until = clock_ns() + (1 + round % 5) * NS_PER_MS;
        while (clock_ns() < until)
            while (log_ring_look(ring, false, &line, &torn)) {
                is_right &= strtoull(line.p, NULL, 10) == taken++;
                log_ring_step(ring, &line);
            }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (log_ring_look(ring, true, &line, &torn)) {
            is_right &= strtoull(line.p, NULL, 10) == taken++;
            log_ring_step(ring, &line);
        }
        is_right &=
            taken >= atomic_load(done) && atomic_load(&ring->head) == atomic_load(&ring->tail);
        log_ring_free(counts);
    }
    ok(is_right, "a killed process has lost no line that was finished (%llu torn)",
       (unsigned long long)torn);
}

/* Holes, as a death at the worst place leaves them. */
static void
test_holes(void)
{
    struct log_taken line;
    uint64_t torn = 0;
    log_ring_put(ring, LOG_TO_ERROR, 0, "one", 3);
    atomic_fetch_add(&ring->head, 160); /* reserved, nothing written */
    log_ring_put(ring, LOG_TO_ERROR, 0, "two", 3);
    uint64_t at = atomic_load(&ring->head);
    log_ring_put(ring, LOG_TO_ERROR, 0, "half", 4);
    /* its size is there, the rest is not */
    ((_Atomic uint32_t *)(ring->data + (at & (LOG_RING_SIZE - 1))))[1] = LOG_NONE;
    log_ring_put(ring, LOG_TO_ERROR, 0, "three", 5);
    bool is_one = log_ring_look(ring, false, &line, &torn) && memcmp(line.p, "one", 3) == 0;
    log_ring_step(ring, &line);
    ok(is_one && !log_ring_look(ring, false, &line, &torn),
       "a line that is not whole is waited for while its process lives");
    bool is_two = log_ring_look(ring, true, &line, &torn) && memcmp(line.p, "two", 3) == 0;
    log_ring_step(ring, &line);
    bool is_three = log_ring_look(ring, true, &line, &torn) && memcmp(line.p, "three", 5) == 0;
    log_ring_step(ring, &line);
    ok(is_two && is_three && torn == 2 && !log_ring_look(ring, true, &line, &torn),
       "and stepped over, and counted, when it is dead");
    log_ring_put(ring, LOG_TO_ERROR, 0, "x", 1);
    memset(ring->data, 0xff, sizeof(ring->data)); /* a process gone mad */
    torn = 0;
    ok(!log_ring_look(ring, true, &line, &torn) && torn == 1,
       "what is no ring any more is given up");
    ok(log_ring_put(ring, LOG_TO_ERROR, 0, "x", 1) && log_ring_look(ring, true, &line, &torn),
       "and is one again");
    log_ring_step(ring, &line);
}

static void
test_sleep(void)
{
    struct log_taken line;
    uint64_t torn = 0;
    ok(!log_ring_must_wake(ring), "nobody sleeps");
    ok(!log_ring_await(ring), "nothing has come");
    log_ring_put(ring, LOG_TO_ERROR, 0, "x", 1);
    ok(log_ring_must_wake(ring) && !log_ring_must_wake(ring),
       "the first line wakes, the second does not");
    ok(log_ring_await(ring), "who wants to sleep sees that there is something");
    (void)log_ring_look(ring, false, &line, &torn);
    log_ring_step(ring, &line);
}

static void
test_json(void)
{
    static const struct {
        struct slice from;
        const char *to;
    } rows[] = {
        { SLICE("plain"), "plain" },
        { SLICE("a\"b\\c\nd\te\x01\x7f"), "a\\\"b\\\\c\\nd\\te\\u0001\\u007f" },
        { SLICE("gr\xc3\xbc\xc3\x9f\x65 \xe2\x82\xac \xf0\x9f\x98\x80"),
          "gr\xc3\xbc\xc3\x9f\x65 \xe2\x82\xac \xf0\x9f\x98\x80" },
        { SLICE("\xff\xc3(\xed\xa0\x80\xc0\x80\xf5\x80\xe2\x82"),
          "\\ufffd\\ufffd(\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char out[256];
        *json_escape(out, rows[i].from) = '\0';
        if (!ok(strcmp(out, rows[i].to) == 0, "JSON %zu", i))
            diag("%s", out);
    }
}

/* A process that was not forked from this one has it by its descriptor. */
static void
test_by_descriptor(void)
{
    int fd = -1;
    struct log_taken line;
    uint64_t torn = 0;
    struct log_ring *mine = log_ring_new(&fd), *others = fd >= 0 ? log_ring_map(fd) : NULL;
    ok(mine != NULL && others != NULL && others != mine, "mapped twice");
    CHECK(log_ring_put(others, LOG_TO_ERROR, 7, "hello", 5));
    ok(log_ring_look(mine, false, &line, &torn) && line.n == 5 && memcmp(line.p, "hello", 5) == 0,
       "what one puts in the other takes out");
    log_ring_free(others);
    log_ring_free(mine);
    close(fd);
}

int
main(void)
{
    ring = log_ring_new(NULL);
    if (ring == NULL)
        return 1;
    test_round();
    test_full();
    test_threads();
    test_killed();
    test_holes();
    test_sleep();
    test_json();
    test_by_descriptor();
    log_ring_free(ring);
    return tap_done();
}
