/* utf8.h: characters of UTF-8, in memory. (ws/utf8.c judges text that arrives in pieces.) */
#ifndef RINGCORN_BASE_UTF8_H
#define RINGCORN_BASE_UTF8_H

#include <stddef.h>

/* How many of the n > 0 bytes at p are its first character (RFC 3629: no surrogates, nothing longer than need be, nothing above
 * U+10FFFF), or 0: they begin none. */
size_t utf8_size(const unsigned char *p, size_t n);

#endif
