/* shake.c: the numbers of a seed, and seeds as text. */
#include "base/shake.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

enum {
    RATE_MAX = 256,
    RATE_BITS = 8, /* a seed of so many bits disturbs as often as any */
};

static const uint64_t golden = 0x9e3779b97f4a7c15; /* of the golden ratio, odd */

static const char *const names[SHAKE_KINDS] = { "order", "awaits", "hops", "timers",
                                                "io",    "drops",  "tasks" };

/* How often a kind disturbs where it could, of 256, by seeds that are not gentle. */
static const unsigned weights[SHAKE_KINDS] = {
    [SHAKE_ORDER] = 256, [SHAKE_AWAITS] = 128, [SHAKE_HOPS] = 128,  [SHAKE_TIMERS] = 96,
    [SHAKE_IO] = 128,    [SHAKE_DROPS] = 128,  [SHAKE_TASKS] = 256,
};

struct shake *shake_here;

const char *
shake_kind_name(enum shake_kind kind)
{
    return names[kind];
}

static unsigned
bits_of(uint64_t x)
{
    unsigned n = 0;
    for (; x != 0; x >>= 1)
        n++;
    return n;
}

void
shake_init(struct shake *s, uint64_t seed, unsigned kinds)
{
    unsigned bits = bits_of(seed);
    *s = (struct shake){
        .seed = seed,
        .kinds = kinds & SHAKE_ALL,
        .rate = (bits < RATE_BITS ? bits : RATE_BITS) * (RATE_MAX / RATE_BITS),
    };
    for (unsigned i = 0; i < SHAKE_KINDS; i++)
        s->states[i] = shake_mix(shake_mix(seed + golden) + (i + 1) * golden);
    s->redraw = RATE_MAX >> 2 * shake_below(s, SHAKE_ORDER, 4);
}

static int
kind_of(const char *text, size_t n)
{
    for (unsigned i = 0; i < SHAKE_KINDS; i++)
        if (strlen(names[i]) == n && memcmp(names[i], text, n) == 0)
            return (int)i;
    return -1;
}

int
shake_parse(struct shake *s, const char *text, size_t n)
{
    uint64_t seed = 0;
    size_t i = 0;
    for (; i < n && text[i] >= '0' && text[i] <= '9'; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (seed > (UINT64_MAX - digit) / 10)
            return -EINVAL;
        seed = seed * 10 + digit;
    }
    if (i == 0 || (i < n && text[i] != ':'))
        return -EINVAL;
    unsigned kinds = i < n ? 0 : SHAKE_USUAL;
    while (i < n) { /* at the colon, or the comma, in front of a name */
        size_t begin = ++i;
        while (i < n && text[i] != ',')
            i++;
        int kind = kind_of(text + begin, i - begin);
        if (kind < 0)
            return -EINVAL;
        kinds |= 1U << kind;
    }
    shake_init(s, seed, kinds);
    return 0;
}

void
shake_print(const struct shake *s, char text[SHAKE_TEXT_SIZE])
{
    uint64_t seed = s->kinds != 0 ? s->seed : 0; /* nothing disturbs: as of seed 0 */
    int n = snprintf(text, SHAKE_TEXT_SIZE, "%llu", (unsigned long long)seed);
    if (s->kinds == 0 || s->kinds == SHAKE_USUAL)
        return;
    const char *between = ":";
    for (unsigned i = 0; i < SHAKE_KINDS; i++) {
        if (!shake_has(s, i))
            continue;
        n += snprintf(text + n, SHAKE_TEXT_SIZE - (size_t)n, "%s%s", between, names[i]);
        between = ",";
    }
}

uint64_t
shake_next(struct shake *s, enum shake_kind kind)
{
    return shake_mix(s->states[kind] += golden);
}

uint32_t
shake_below(struct shake *s, enum shake_kind kind, uint32_t n)
{
    if (!shake_has(s, kind))
        return 0;
    return (uint32_t)((shake_next(s, kind) >> 32) * n >> 32);
}

bool
shake_chance(struct shake *s, enum shake_kind kind)
{
    if (!shake_has(s, kind) || s->rate == 0)
        return false;
    return shake_below(s, kind, RATE_MAX * RATE_MAX) < s->rate * weights[kind];
}

size_t
shake_cut(struct shake *s, size_t n)
{
    enum { SHORT = 32 };
    if (n < 2 || !shake_chance(s, SHAKE_IO))
        return n;
    size_t most = n - 1 < SHORT || shake_below(s, SHAKE_IO, 2) ? n - 1 : SHORT;
    return 1 + shake_below(s, SHAKE_IO, most < UINT32_MAX ? (uint32_t)most : UINT32_MAX);
}

/* May it be next, for all that came before it? */
static bool
is_first(const struct shake_item *items, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (items[k].group == items[i].group || (!items[k].is_free && !items[i].is_free))
            return false;
    return true;
}

size_t
shake_pick(struct shake *s, const struct shake_item *items, size_t n)
{
    if (n == 1)
        return 0;
    if (shake_has(
            s,
            SHAKE_TASKS)) { /* groups are tasks then, too many and too short-lived for priorities */
        size_t picked = 0;
        uint32_t found = 0;
        for (size_t i = 0; i < n; i++)
            if (is_first(items, i) && shake_below(s, SHAKE_TASKS, ++found) == 0)
                picked = i;
        return picked;
    }
    bool is_disturbed = shake_chance(s, SHAKE_ORDER);
    if (!is_disturbed && !s->is_serial)
        return 0;
    if (is_disturbed && shake_below(s, SHAKE_ORDER, RATE_MAX) < s->redraw)
        s->epoch++;
    size_t picked = 0;
    uint64_t most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_first(items, i))
            continue;
        uint64_t group = items[i].group;
        uint64_t priority = is_disturbed
                                ? shake_mix(shake_mix(s->seed + s->epoch * golden) + group * golden)
                                : ~group;
        if (i == 0 || priority > most) {
            picked = i;
            most = priority;
        }
    }
    return picked;
}
