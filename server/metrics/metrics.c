/* metrics.c: the shared area and its blocks. Any process; metrics_take() and metrics_give() are the master's. */
#include "metrics/metrics.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/owned.h"

#define MS(n) ((int64_t)(n) * 1000 * 1000)

const int64_t metrics_bounds_ns[METRICS_BUCKETS] = {
    MS(1) / 10, MS(1) / 4, MS(1) / 2, MS(1),     MS(5) / 2, MS(5),
    MS(10),     MS(25),    MS(50),    MS(100),   MS(250),   MS(500),
    MS(1000),   MS(2500),  MS(5000),  MS(10000), MS(30000), MS(60000),
};

static struct metrics *area;
struct metrics_block metrics_nowhere;
struct metrics_block *metrics_here = &metrics_nowhere;

/* The first bound that can hold a time of so many bits beyond the lowest 17. */
static const uint8_t first_bounds[] = { 0, 1,  2,  3,  4,  4,  5,  6,  7,  8,
                                        9, 10, 11, 12, 13, 13, 14, 15, 16, 17 };

void
metrics_observe(struct metrics_histogram *h, int64_t ns)
{
    if (ns < 0)
        ns = 0;
    uint64_t high = (uint64_t)ns >> 17;
    unsigned bits = high == 0 ? 0 : 64 - (unsigned)__builtin_clzll(high);
    size_t i = bits < sizeof(first_bounds) ? first_bounds[bits] : METRICS_BUCKETS;
    while (i < METRICS_BUCKETS && ns > metrics_bounds_ns[i])
        i++;
    metrics_add(&h->buckets[i], 1);
    metrics_add(&h->sum_ns, (uint64_t)ns);
}

static struct metrics *
map(int fd)
{
    void *p = mmap(NULL, sizeof(struct metrics), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                   fd, 0);
    return p != MAP_FAILED ? p : NULL;
}

struct metrics *
metrics_new(int *fd)
{
    FD_OWNED int file = memfd_create("ringcorn-metrics", MFD_CLOEXEC);
    struct metrics *m =
        file >= 0 && ftruncate(file, sizeof(struct metrics)) == 0 ? map(file) : NULL;
    if (m == NULL)
        return NULL;
    m->layout = METRICS_LAYOUT;
    m->block_bytes = sizeof(struct metrics_block);
    metrics_set(&m->master.started_at_s, (uint64_t)time(NULL));
    *fd = fd_take(&file);
    return m;
}

struct metrics *
metrics_adopt(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_size != (off_t)sizeof(struct metrics))
        return NULL;
    struct metrics *m = map(fd);
    if (m == NULL ||
        (m->layout == METRICS_LAYOUT && m->block_bytes == sizeof(struct metrics_block)))
        return m;
    metrics_free(m);
    return NULL;
}

void
metrics_free(struct metrics *m)
{
    if (m != NULL)
        munmap(m, sizeof(*m));
}

/* Two masters may be at it, while one takes the place of the other. */
static bool
claim(struct metrics_block *b)
{
    uint32_t state = METRICS_FREE;
    return atomic_compare_exchange_strong(&b->worker.state, &state, METRICS_BOOTING);
}

/* One that this slot had before; else one that nobody ever had, as others' counters are theirs. */
static struct metrics_block *
find(struct metrics *m, unsigned slot)
{
    METRICS_EACH(b, m)
        if (b->worker.slot == slot && claim(b))
            return b;
    for (uint32_t n = atomic_load(&m->blocks_n); n < METRICS_BLOCKS_MAX; n++) {
        if (!claim(&m->blocks[n]))
            continue;
        uint32_t known = atomic_load(&m->blocks_n);
        while (known <= n && !atomic_compare_exchange_weak(&m->blocks_n, &known, n + 1))
            ;
        return &m->blocks[n];
    }
    return NULL;
}

metrics_u64 *
metrics_guard_counter(struct metrics_guard *guard, const char *kind)
{
    static const struct {
        const char *labels;
        size_t offset;
    } counters[] = {
#define X(field, family, labels, help) { labels, offsetof(struct metrics_guard, field) },
        METRICS_GUARD_COUNTERS(X)
#undef X
    };
    char labels[64];
    snprintf(labels, sizeof(labels), "kind=\"%s\"", kind);
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        if (strcmp(counters[i].labels, labels) == 0)
            return (metrics_u64 *)((char *)guard + counters[i].offset);
    }
    return NULL;
}

static void
clear_gauges(struct metrics_block *b)
{
#define X(field, ...) metrics_set(&b->loop.field, 0);
    METRICS_LOOP_GAUGES(X)
#undef X
    for (int i = 0; i < METRICS_POOLS; i++) {
        metrics_set(&b->pools[i].crew.busy_now, 0);
#define X(field, ...) metrics_set(&b->pools[i].crew.field, 0);
        METRICS_CREW_GAUGES(X)
#undef X
    }
#define X(field, ...) metrics_set(&b->guard.field, 0);
    METRICS_GUARD_GAUGES(X)
#undef X
#define X(field, ...) metrics_set(&b->database.field, 0);
    METRICS_DATABASE_GAUGES(X)
#undef X
}

struct metrics_block *
metrics_take(struct metrics *m, unsigned slot, unsigned generation, int64_t now_ns)
{
    struct metrics_block *b = find(m, slot);
    if (b == NULL)
        return NULL;
    clear_gauges(b);
    memset((void *)&b->pulse, 0, sizeof(b->pulse));
    b->worker.slot = slot;
    b->worker.generation = generation;
    metrics_set(&b->worker.started_at_s, (uint64_t)time(NULL));
    metrics_set(&b->worker.started_ns, (uint64_t)now_ns);
    metrics_set(&b->worker.ready_ns, 0);
    return b;
}

void
metrics_give(struct metrics_block *b, pid_t pid, uint64_t cpu_ns)
{
    int32_t of = (int32_t)pid;
    /* Two masters may see a death: the first gives the block, which may be another's at once. */
    if (b == NULL || !atomic_compare_exchange_strong(&b->worker.pid, &of, 0))
        return;
    metrics_add(&b->worker.cpu_ns, cpu_ns);
    clear_gauges(b);
    b->pulse.doing = METRICS_STARTS;
    b->worker.state = METRICS_FREE;
}

struct proc_usage
metrics_usage(const struct metrics_worker *w)
{
    struct proc_usage usage;
    pid_t pid;
    uint64_t before;
    do { /* until nobody came or went meanwhile: then nothing is counted twice, or not at all */
        usage = (struct proc_usage){ 0 };
        pid = w->pid;
        before = metrics_get(&w->cpu_ns);
        if (pid != 0)
            (void)proc_usage(pid, &usage);
    } while (pid != w->pid || before != metrics_get(&w->cpu_ns));
    usage.cpu_ns += (int64_t)before;
    return usage;
}

void
metrics_sweep(struct metrics *m)
{
    METRICS_EACH(b, m) {
        pid_t pid = (pid_t)b->worker.pid;
        if (pid > 0 && b->worker.state != METRICS_FREE && kill(pid, 0) < 0 && errno == ESRCH)
            metrics_give(b, pid, 0);
    }
}

void
metrics_begin(struct metrics *m, struct metrics_block *b)
{
    area = m;
    metrics_here = b != NULL ? b : &metrics_nowhere;
}

struct metrics *
metrics_area(void)
{
    return area;
}
