/* shake.h: what a seed decides in shake mode, where a program that has a race is made to show it.
 *
 * A seed is a number and, if not all of them, the kinds of disturbance that it stands for: "17", "17:order,hops". Each kind draws from numbers of its
 * own, so that leaving one out changes nothing of what the others do: which of them matters can be found by leaving them out.
 * Low seeds are gentle ones: 0 disturbs nothing, and up to 128 the disturbances become more frequent.
 *
 * The numbers are those of SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
 * with the constants of its Java 8 version, as in S. Vigna's https://prng.di.unimi.it/splitmix64.c (public domain).
 *
 * Plain memory, one owner. */
#ifndef RINGCORN_BASE_SHAKE_H
#define RINGCORN_BASE_SHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In the order of shake_kind_name(). */
enum shake_kind {
    SHAKE_ORDER,  /* who is next, of those whose turn it could be */
    SHAKE_AWAITS, /* awaitables that have what they wait for suspend all the same */
    SHAKE_HOPS,   /* calls in threads begin late, and their results come late */
    SHAKE_TIMERS, /* timers are late, as on a busy machine */
    SHAKE_IO,     /* what is read and written comes in pieces */
    SHAKE_DROPS,  /* clients leave at an await */
    SHAKE_TASKS, /* tasks of one request too are in no order: what asyncio does not promise, and much relies on; only where it is named */
    SHAKE_KINDS
};

enum { SHAKE_ALL = (1U << SHAKE_KINDS) - 1, SHAKE_USUAL = SHAKE_ALL & ~(1U << SHAKE_TASKS) };

enum { SHAKE_TEXT_SIZE = 96 }; /* of a seed as text, with all kinds */

struct shake {
    uint64_t seed;
    unsigned kinds;  /* 1U << enum shake_kind */
    unsigned rate;   /* of 256 */
    unsigned redraw; /* of 256: how often shake_pick() draws anew who goes first */
    uint64_t epoch;  /* times that it has done so */
    /* undisturbed, the group with the least number goes on, and not what came first */
    bool is_serial;
    uint64_t states[SHAKE_KINDS];
};

/* Something that waits for its turn. Those of a group keep their order, and so do those that are not free, whatever their group. */
struct shake_item {
    uint64_t group;
    bool is_free;
};

const char *shake_kind_name(enum shake_kind kind);

void shake_init(struct shake *s, uint64_t seed, unsigned kinds);

/* From n bytes of text, as above. 0, or -EINVAL: it is no seed, and *s is as it was. */
int shake_parse(struct shake *s, const char *text, size_t n);

/* As shake_parse() takes it. */
void shake_print(const struct shake *s, char text[SHAKE_TEXT_SIZE]);

static inline bool
shake_has(const struct shake *s, enum shake_kind kind)
{
    return (s->kinds >> kind & 1) != 0;
}

/* A finaliser: each bit of x has its part in each of the result. */
static inline uint64_t
shake_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

/* The next number of a kind. */
uint64_t shake_next(struct shake *s, enum shake_kind kind);

/* The next one of a kind, from 0 to n - 1; 0 where the kind is not among the seed's. n: not 0. */
uint32_t shake_below(struct shake *s, enum shake_kind kind, uint32_t n);

/* Whether to disturb here: as often as the seed and the kind have it; never where the kind is not among the seed's. */
bool shake_chance(struct shake *s, enum shake_kind kind);

/* Which of them is next: its index. They are in the order in which they came; n: not 0, and not many.
 * Groups have priorities, and the first one goes on until it has nothing to do or they are drawn anew, which some seeds do at each step and some
 * now and then: few changes at the right places find most races (S. Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding
 * bugs", ASPLOS 2010). */
size_t shake_pick(struct shake *s, const struct shake_item *items, size_t n);

/* How many of n bytes to read or to write; n: not 0. */
size_t shake_cut(struct shake *s, size_t n);

/* Of the process, where it serves in shake mode: what lies below Python's loop draws from it, on the loop's thread. NULL: shake mode is off. */
extern struct shake *shake_here;

#endif
