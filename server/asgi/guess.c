/* guess.c: which paths lead to synchronous code. Learned from what came of earlier requests, in direct-mapped tables of fixed size: one by the
 * whole path with its runs of digits made one ("/book/123/" and "/book/7/" are one), and one by the path without its last part, for titles
 * and the like ("/blog/some-title/"), which counts only while all that was seen below it is synchronous.
 *
 * What is not known goes the way through the loop: a request to asynchronous code that waited for a thread would be served late, or not
 * at all. So the other mistake is the cheaper one, and the rarer: it takes a path that looks like eight synchronous ones.
 *
 * Runs on:  guess_is_sync(): the loop's thread, without the GIL; guess_learn(): any thread. An entry is one word: who reads while it is
 *           written sees the one or the other. */
#include "asgi.h"

#include <stdlib.h>

enum {
    WHOLE = 2048, /* powers of two */
    PARENTS = 512,
    LIKE_IT = 8, /* paths below a parent, until it speaks for others */
};

/* A word: the hash, and in its lowest bits what is known: for whole paths an enum guess, for parents how many were synchronous, or MIXED. */
enum { KNOWN = 15, MIXED = 15 };

struct guesses {
    _Atomic uint64_t whole[WHOLE], parents[PARENTS];
};

struct hashes {
    uint64_t whole, parent; /* parent: 0 = "/" alone, which says nothing */
};

static uint64_t
mix(uint64_t h)
{
    h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15ull;
    return (h ^ (h >> 29)) & ~(uint64_t)KNOWN;
}

static struct hashes
hashes_of(struct slice path)
{
    uint64_t h = 0xcbf29ce484222325ull, parent = 0;
    bool in_digits = false;
    for (size_t i = 0; i < path.n; i++) {
        char c = path.p[i];
        bool is_digit = c >= '0' && c <= '9';
        if (is_digit && in_digits)
            continue;
        in_digits = is_digit;
        h = (h ^ (unsigned char)(is_digit ? '0' : c)) * 0x100000001b3ull;
        if (c == '/' && i > 0 && i + 1 < path.n)
            parent = h;
    }
    return (struct hashes){ mix(h), parent != 0 ? mix(parent) : 0 };
}

struct guesses *
guesses_new(void)
{
    return calloc(1, sizeof(struct guesses));
}

static _Atomic uint64_t *
entry(_Atomic uint64_t *table, size_t size, uint64_t hash)
{
    return &table[(hash >> 4) & (size - 1)];
}

/* 0: nothing. */
static unsigned
look(_Atomic uint64_t *table, size_t size, uint64_t hash)
{
    uint64_t word = atomic_load_explicit(entry(table, size, hash), memory_order_relaxed);
    return (word ^ hash) <= KNOWN ? (unsigned)(word & KNOWN) : 0;
}

static void
note(_Atomic uint64_t *table, size_t size, uint64_t hash, unsigned known)
{
    atomic_store_explicit(entry(table, size, hash), hash | known, memory_order_relaxed);
}

bool
guess_is_sync(struct guesses *g, struct slice path)
{
    struct hashes h = hashes_of(path);
    unsigned known = look(g->whole, WHOLE, h.whole);
    if (LIKELY(known != 0))
        return known == GUESS_SYNC;
    known = h.parent != 0 ? look(g->parents, PARENTS, h.parent) : 0;
    return known >= LIKE_IT && known != MIXED;
}

void
guess_learn(struct guesses *g, struct slice path, enum guess guess)
{
    struct hashes h = hashes_of(path);
    unsigned known = look(g->whole, WHOLE, h.whole);
    if (LIKELY(known == guess) || known == GUESS_NEVER)
        return;
    note(g->whole, WHOLE, h.whole, guess);
    if (h.parent == 0)
        return;
    unsigned seen = look(g->parents, PARENTS, h.parent);
    if (guess != GUESS_SYNC)
        seen = MIXED;
    else if (seen < LIKE_IT)
        seen++;
    note(g->parents, PARENTS, h.parent, seen);
}
