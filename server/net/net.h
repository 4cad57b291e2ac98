/* net.h: connections. A listener accepts, a connection carries bytes both ways with deadlines and bounded buffers.
 *
 *   listener.c   accepting, and pausing when descriptors or `limits.connections` run out
 *   conn.c       the life of one connection; reading, the output queue, lingering close
 *   peer.c       who is at the other end
 *
 * struct conn is embedded as the first member of the protocol's struct (http/'s struct h1).
 * Runs on the loop thread only, with or without the GIL; nothing here knows Python. */
#ifndef RINGCORN_NET_H
#define RINGCORN_NET_H

#include <netinet/in.h>
#include <sys/un.h>

#include "io/io.h"

struct conn;

/* The protocol above: filled in by http/. */
struct conn_ops {
    size_t size;                                /* of the struct that embeds struct conn first */
    void (*opened)(struct conn *c);             /* just accepted */
    void (*readable)(struct conn *c);           /* bytes, or the end, may be read: call conn_read() */
    void (*drained)(struct conn *c);            /* output fell below the low-water mark, or is all sent */
    void (*timeout)(struct conn *c);            /* the deadline set by conn_deadline() passed */
    void (*broken)(struct conn *c, int err);    /* reset or send error; nothing more can be sent */
    void (*freed)(struct conn *c);              /* the descriptor is closed and the memory goes after this call */
    void (*release)(void *owner);               /* a held buffer (conn_write_held) is no longer needed */
    void *app;                                  /* the protocol's own */
};

/* One per loop. Public for embedding. */
struct net {
    struct io *io;
    struct wheel wheel;
    int64_t now_ns;           /* the clock, read once per turn */
    const struct conn_ops *ops;
    struct list listeners;
    struct list conns;        /* all open connections */
    struct list dirty;        /* with output to hand to io at the next flush */
    struct list resume;       /* to be read again though no event will come */
    unsigned conns_n, conns_max; /* accepting pauses at conns_max */
    struct timer accept_retry;
    int64_t send_timeout_ns;
    /* input blocks and output chunks kept for reuse: conn.c's */
    void *free_blocks, *free_chunks;
    unsigned free_blocks_n, free_chunks_n;
};

void net_init(struct net *net, struct io *io, const struct conn_ops *ops, unsigned conns_max,
              int64_t send_timeout_ns);
/* Closes everything at once; every connection gets broken() and freed(). */
void net_fini(struct net *net);

/* --- for the loop; see py/py.h, struct loop_client --- */
void net_turn(struct net *net);      /* after every io_wait(): reads the clock, fires deadlines, resumes connections */
void net_flush(struct net *net);     /* hands dirty output to io */
int64_t net_next_ns(const struct net *net); /* when net_turn() is due: 0 = at once, -1 = only on events */

/* --- listeners --- */
struct listener;
/* fd is duplicated for the listener. Accepting starts at once. Returns NULL when memory or descriptors ran out. */
struct listener *listener_open(struct net *net, int fd);
/* Stops accepting, after taking what is already in a completion; the kernel's queue stays for whoever else listens. */
void listener_close(struct listener *l);

/* --- one connection --- (the rest of this header is conn.c's and http/'s) */

#endif
