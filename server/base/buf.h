/* buf.h: a growing byte buffer. {0} is an empty one. Not thread-safe; the holder owns the memory. */
#ifndef RINGCORN_BASE_BUF_H
#define RINGCORN_BASE_BUF_H

#include <stddef.h>

struct buf {
    char *p;
    size_t n;   /* bytes in use */
    size_t cap; /* bytes allocated */
};

/* Makes room for more bytes behind n. Returns 0 or -ENOMEM (the buffer is unchanged then). */
int buf_reserve(struct buf *b, size_t more);

/* Each appends and returns 0, or -ENOMEM with the buffer unchanged. */
int buf_append(struct buf *b, const void *p, size_t n);
int buf_puts(struct buf *b, const char *text);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Frees the memory; the buffer is empty and usable again. */
void buf_free(struct buf *b);

/* Use as `BUF_OWNED struct buf b = {0};` */
#define BUF_OWNED __attribute__((cleanup(buf_free)))

#endif
