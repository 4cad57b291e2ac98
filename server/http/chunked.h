/* chunked.h: the chunked transfer coding of requests (RFC 9112 section 7.1), decoded in place.
 *
 * Our own and not llhttp's, because here strictness is the whole subject: lines end with CRLF and
 * nothing else, sizes are plain hexadecimal, extensions and trailers are bounded, and no version of
 * a library decides otherwise. Knows nothing of connections. */
#ifndef RINGCORN_HTTP_CHUNKED_H
#define RINGCORN_HTTP_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum {
    CHUNKED_LINE_MAX = 4 * 1024, /* bytes of one size line with its extensions */
    CHUNKED_EXT_MAX = 16 * 1024, /* bytes of extensions in one request */
};

struct chunked_limits {
    uint32_t trailer_bytes; /* of the whole trailer section */
    uint32_t trailers;
    struct buf *keep; /* trailers are appended, "Name: value\r\n" each; NULL: they are dropped */
};

/* All zero is the start. */
struct chunked {
    uint64_t left; /* of the chunk's data, or its size so far */
    uint32_t line; /* bytes of this size line */
    uint32_t ext;  /* bytes of extensions so far */
    uint32_t trailer_bytes;
    uint16_t trailers;
    uint8_t digits;
    uint8_t state;
};

enum { CHUNKED_MORE = 0, CHUNKED_DONE = 1 };

/* Decodes data[*raw .. raw_end): moves body bytes to data + *body_end and advances both. *body_end
 * <= *raw; every byte is moved at most once. Trailers are checked and counted. Returns
 * CHUNKED_MORE when all was taken, CHUNKED_DONE when the body has ended (what is behind *raw
 * belongs to the next request), or the negative HTTP status to refuse with (-400, -431). */
int chunked_decode(struct chunked *ck, const struct chunked_limits *limits, char *data,
                   uint32_t *raw, uint32_t raw_end, uint32_t *body_end);

#endif
