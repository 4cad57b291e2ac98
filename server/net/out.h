/* out.h: an output chunk, private to net/: some bytes of its own, and up to NET_IOV pieces that lie
 * in them or in memory that is held for it. The pieces are the iovec array of one send. */
#ifndef RINGCORN_NET_OUT_H
#define RINGCORN_NET_OUT_H

#include "net.h"

struct chunk {
    struct chunk *next;
    uint32_t cap;     /* bytes of data */
    uint32_t used;    /* of them written and committed */
    uint8_t first, n; /* pieces [first, n) are unsent */
    struct iovec iov[NET_IOV];
    void *owner[NET_IOV]; /* NULL: the piece lies in data */
    char data[];
};

/* The queue whose chunks the kernel gets: out.c's own, or that of TLS records. */
struct outq *out_wire(struct conn *c);

/* Bytes behind what is queued; those of them that the kernel has do not move. capacity: of a new
 * chunk, should it need one. 0 or -ENOMEM. */
int outq_append(struct conn *c, struct outq *q, const char *p, size_t n, size_t capacity);
/* Takes n bytes off the front, which have been sent, or made into records; owners are released. */
void outq_advance(struct conn *c, struct outq *q, size_t n);
/* Gives all back but what the kernel has. */
void outq_drop(struct conn *c, struct outq *q);

#endif
