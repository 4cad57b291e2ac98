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

#endif
