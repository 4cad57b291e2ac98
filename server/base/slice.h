/* slice.h: a borrowed range of bytes. Never NUL-terminated; whoever hands one out says how long it lives. */
#ifndef RINGCORN_BASE_SLICE_H
#define RINGCORN_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

struct slice {
    const char *p;
    size_t n;
};

#define SLICE(literal) ((struct slice){ (literal), sizeof(literal) - 1 })

static inline struct slice
slice_of(const char *text)
{
    return (struct slice){ text, text ? strlen(text) : 0 };
}

static inline bool
slice_is(struct slice s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* ASCII case does not count. */
static inline bool
slice_is_nocase(struct slice s, const char *text)
{
    return s.n == strlen(text) && strncasecmp(s.p, text, s.n) == 0;
}

/* For tables of fixed size. FNV-1a over eight bytes at a time: quality hardly matters there, speed does. Hashes of several slices are
 * chained: slice_hash(slice_hash(0, a), b). */
static inline uint64_t
slice_hash(uint64_t seed, struct slice s)
{
    uint64_t h = seed ^ 0xcbf29ce484222325ull;
    const char *p = s.p;
    size_t n = s.n;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x100000001b3ull;
        h ^= h >> 29;
    }
    uint64_t tail = 0;
    memcpy(&tail, p, n);
    h = (h ^ tail ^ ((uint64_t)s.n << 56)) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 32);
}

/* Without spaces and tabs at both ends (OWS, RFC 9110 section 5.6.3). */
static inline struct slice
slice_trim(struct slice s)
{
    while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
        s.p++, s.n--;
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

#endif
