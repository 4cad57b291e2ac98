/* chars.h: what a byte may be in HTTP/1.1, as one table. */
#ifndef RINGCORN_HTTP_CHARS_H
#define RINGCORN_HTTP_CHARS_H

#include <stdint.h>

#include "base/base.h"

enum {
    CHAR_TOKEN = 1, /* method, header name (RFC 9110 section 5.6.2) */
    /* request target: visible ASCII without '#' (RFC 9112 section 3.2; a fragment is never sent) */
    CHAR_TARGET = 2,
    CHAR_VALUE = 4, /* field value: visible, space, tab, obs-text (RFC 9110 section 5.5) */
    /* uri-host and port without brackets (RFC 3986 section 3.2.2), without the comma of joined
     * fields */
    CHAR_HOST = 8,
    CHAR_HEX = 16,
    CHAR_DIGIT = 32,
};

extern const uint8_t http_chars[256];
extern const uint8_t http_lower[256]; /* a token character in lower case; 0 for others */

static inline bool
char_is(char c, unsigned what)
{
    return (http_chars[(unsigned char)c] & what) != 0;
}

/* Whether all bytes are what is asked for. */
static inline bool
chars_are(struct slice s, unsigned what)
{
    unsigned all = what;
    for (size_t i = 0; i < s.n; i++)
        all &= http_chars[(unsigned char)s.p[i]];
    return all != 0;
}

/* Whether a field value has none but the allowed bytes. Eight bytes at a time: values are most of a
 * head. */
bool chars_are_value(struct slice s);

#endif
