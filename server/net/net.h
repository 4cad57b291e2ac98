/* net.h: connections. A listener accepts, a connection carries bytes both ways with deadlines and
 * bounded buffers.
 *
 *   net.c        one turn of the loop: deadlines, connections to be read again, output handed over
 *   listener.c   accepting, and pausing when descriptors or `limits.connections` run out
 *   conn.c       the life of one connection; reading, lingering close
 *   out.c        its output queue; file.c  what of it lies in files
 *   tls.h        TLS between a connection and io
 *   block.c      input blocks and output chunks, kept for reuse
 *   peer.c       who is at both ends
 *   address.c    addresses as proxies write them; who is trusted (proxy.trusted)
 *   proxy_protocol.c  the header of the PROXY protocol at the beginning of a connection
 *
 * struct conn is embedded as the first member of the protocol's struct (http/'s struct h1).
 * Runs on the loop thread only, with or without the GIL; nothing here knows Python. */
#ifndef RINGCORN_NET_H
#define RINGCORN_NET_H

#include <netinet/in.h>
#include <sys/un.h>

#include "conf/conf.h"
#include "io/io.h"
#include "net/tls.h"

struct conn;
struct net;
struct tls;

/* The protocol above: filled in by http/. None of them may free the connection: conn_close() and
 * conn_finish() ask for that. */
struct conn_ops {
    /* of the struct that embeds struct conn first; zeroed at opened() */
    size_t size;
    void (*opened)(struct conn *c); /* just accepted, or its TLS handshake is done */
    /* behind opened(): the client speaks plain HTTP where TLS is spoken, and is to be told so; what
     * it sent is gone. TLS is off for this connection */
    void (*misplaced)(struct conn *c);
    /* bytes, or the end, may be read: call conn_read(); or `gone` was set */
    void (*readable)(struct conn *c);
    /* output fell below the low-water mark after conn_is_full() was true */
    void (*drained)(struct conn *c);
    /* the deadline set by conn_deadline() passed; it is off now */
    void (*timeout)(struct conn *c);
    /* reset or send error (-errno); nothing more can be read or sent */
    void (*broken)(struct conn *c, int err);
    /* the descriptor is closed and the memory goes after this call */
    void (*freed)(struct conn *c);
    /* a held buffer (conn_write_held) is no longer needed */
    void (*release)(struct conn *c, void *owner);
    void (*flushed)(struct net *net); /* at the end of every net_flush(); may be NULL */
    void *app;                        /* the protocol's own */
};

enum {
    NET_BLOCK = 8 * 1024,      /* an input block: enough for nearly every head */
    NET_BIG_BLOCK = 64 * 1024, /* an input block for bodies */
    /* data of an output chunk: a head and a body of 16 KiB in one send */
    NET_CHUNK = 17 * 1024 + 512,
    NET_COPY_MAX = 16 * 1024,   /* pieces up to this size are copied, bigger ones may be held */
    NET_IOV = 16,               /* pieces in one send */
    NET_HIGH_WATER = 64 * 1024, /* unsent bytes above which conn_is_full() */
    NET_LOW_WATER = NET_HIGH_WATER / 4,
    NET_LINGER_MS = 2000,          /* a lingering close waits no longer for the peer's end */
    NET_LINGER_BYTES = 512 * 1024, /* nor discards more than this */
    NET_ACCEPT_RETRY_MS = 100,     /* accepting starts again after descriptors or memory ran out */
    /* accepted one by one from here to the limit: a full queue of the kernel (net.core.somaxconn)
     * is no more */
    NET_CARE_ROOM = 4096,
    NET_BLOCKS_KEPT = 256,    /* free blocks kept: 2 MiB */
    NET_BIG_BLOCKS_KEPT = 16, /* 1 MiB */
    NET_CHUNKS_KEPT = 128,    /* 2.2 MiB */
};

/* An input block. Public because parsers work in it in place. */
struct block {
    struct block *next; /* in the free list */
    uint32_t cap;       /* bytes of data */
    char data[];
};

/* An output chunk: out.c's. */
struct chunk;

/* An address without its memory. */
struct net_address {
    struct in6_addr ip; /* IPv4 in the first four bytes; an IPv6 address is never a mapped IPv4 */
    uint16_t port;      /* 0 = not known */
    uint8_t family;     /* AF_INET, AF_INET6, AF_UNIX (a peer without an address), or AF_UNSPEC */
};

/* Who is believed: proxy.trusted. */
struct net_trust {
    struct conf_network *v;
    size_t n;
};

/* TLS between the client and the proxy (PP2_TYPE_SSL); texts are "" where nothing was said. */
struct net_proxied_tls {
    char version[16];      /* "TLSv1.3" */
    char cipher[64];       /* "TLS_AES_256_GCM_SHA384", or OpenSSL's name of an older one */
    char client_name[256]; /* the common name of the client's certificate, UTF-8 */
    bool has_client_cert;  /* the client has shown one, on this connection or in its session */
    /* 0: the proxy found it to be right; else why not, as its library counts */
    uint32_t client_error;
    size_t client_cert_n; /* that certificate in DER, where the proxy passes it on; else 0 */
    unsigned char client_cert[];
};

/* What a proxy said by the PROXY protocol. */
struct net_proxied {
    struct net_address client, server;
    struct net_proxied_tls *tls; /* NULL: the client did not come by TLS */
};

/* Chunks that wait to be sent. */
struct outq {
    struct chunk *first, *last;
    uint8_t in_flight; /* iovecs of the first chunk that the kernel has */
};

/* One per loop. Public for embedding. */
struct net {
    struct io *io;
    struct wheel wheel;
    /* the clock, read once per turn and once after each wait (net_woken()), and by the protocol
     * where a deadline begins behind what the application did */
    int64_t now_ns;
    bool is_now_old; /* io_wait() may have slept since now_ns was read */
    const struct conn_ops *ops;
    struct list listeners;
    struct list conns;           /* all open connections */
    struct list dirty;           /* with output to hand to io at the next flush */
    struct list resume;          /* to be read again though no event will come */
    struct list dead;            /* closed, nothing in flight: freed at the next turn */
    struct list shaking;         /* handshakes that can go on */
    unsigned conns_n, conns_max; /* accepting pauses at conns_max (0 = no limit) */
    unsigned closing_n;          /* of these, those that were given up: CONN_FLUSHING and on */
    unsigned handshakes_n, handshakes_max; /* the same for TLS, of those in CONN_HANDSHAKE */
    int64_t handshake_timeout_ns;
    struct tls_set *tls; /* for new connections of TLS listeners; net_set_tls() */
    struct timer accept_retry;
    bool accept_starved;    /* descriptors or memory ran out; accept_retry is set */
    unsigned accept_errors; /* since the last line about them */
    int64_t accept_logged_ns;
    int64_t send_timeout_ns; /* 0 = off */
    struct net_trust trust;
    unsigned proxy_protocol; /* enum conf_proxy_protocol, ored: what connections begin with */
    unsigned refusals;       /* by the PROXY protocol, since the last line about them */
    int64_t refusal_logged_ns;
    /* Kept for reuse: block.c's. */
    struct block *free_blocks, *free_big_blocks;
    struct chunk *free_chunks;
    unsigned free_blocks_n, free_big_blocks_n, free_chunks_n;
    struct sockaddr_storage addr; /* what conn_peer() and conn_local() hand out */
    struct disk *disk; /* file.c's; NULL until something had to be read for a connection */
};

/* No TLS, until net_set_tls(). */
void net_init(struct net *net, struct io *io, const struct conn_ops *ops, unsigned conns_max,
              int64_t send_timeout_ns);
/* After net_init(): proxy.trusted and proxy.protocol. 0 or -ENOMEM. */
int net_trust_proxies(struct net *net, const struct conf *conf);
/* Closes everything at once; every connection gets broken() (unless it had it) and freed().
 * Operations may be in flight, and their memory goes, so this comes after io_close(); net->io is
 * not touched. */
void net_fini(struct net *net);

/* Waits for the threads that read files, as long as their disk (a network's, perhaps) takes. net_fini() would do it, but where
 * that holds a lock for others (the GIL), this comes before, without it. No turn of the loop comes after it. */
void net_join(struct net *net);

/* Before io_close(), where net_fini() comes only after it: threads that read files wake the loop no more. */
void net_leave_io(struct net *net);

/* Takes set (NULL = none) for new connections; those that there are keep theirs. */
void net_set_tls(struct net *net, struct tls_set *set, unsigned handshakes_max,
                 int64_t handshake_timeout_ns);

/* In a forked child: closes the descriptors of all connections and listeners, so that they end when
 * the parent ends them. Nothing else is touched, nothing may be called afterwards.
 * Async-signal-safe. */
void net_abandon(struct net *net);

/* --- for the loop; see py/py.h, struct loop_client --- */
/* after every io_wait(): reads the clock, fires deadlines, resumes connections */
void net_turn(struct net *net);
void net_flush(struct net *net); /* hands dirty output to io */

/* First thing in every callback of io: it comes from inside io_wait(), before net_turn(), and
 * now_ns may be as old as the wait was long; a deadline counted from there would be over before it
 * began. */
static inline void
net_woken(struct net *net)
{
    if (net->is_now_old) {
        net->now_ns = clock_ns();
        net->is_now_old = false;
    }
}
/* when net_turn() is due: 0 = at once, -1 = only on events */
int64_t net_next_ns(const struct net *net);

/* --- listeners --- */
struct listener;
/* fd is duplicated for the listener. Accepting starts at once. is_tls: what is accepted begins with
 * a handshake; net_set_tls() came before. Returns NULL when memory or descriptors ran out. */
struct listener *listener_open(struct net *net, int fd, bool is_tls);
/* No other process accepts from this socket. Until this is said it accepts with care (io.h): one that shares the socket and whose loop is
 * blocked could otherwise keep every connection from it. One that shares it later is for that one to take care of. */
void listener_alone(struct listener *l);
/* Stops accepting, after taking what is already in a completion, and what is in the kernel's queue when that has stopped, up to 64: nobody
 * else may have been woken for it. What comes later is for whoever else listens. The pointer is the net's from here on: it is off
 * net->listeners when nothing can come by it any more. */
void listener_close(struct listener *l);
/* The same, of a sibling's socket, when that is there again. What came by it is is_guest from now on,
 * and should not be kept longer than the answers in hand: a proxy takes its connections to this socket
 * for connections to that sibling. */
void listener_give_back(struct listener *l);

/* --- one connection ------------------------------------------------------------------------------
 *
 *     HANDSHAKE --TLS is up--> OPEN
 *     OPEN --conn_finish()--> FLUSHING --all sent--> LINGERING --end, 2 s, 512 KiB--> CLOSING
 *       `--conn_close(), or broken and let go--------------------------------------------^
 *     CLOSING --nothing in flight--> freed
 *
 * HANDSHAKE  of TLS; the protocol does not know of the connection yet. One that fails goes to
 *            FLUSHING with its alert
 * FLUSHING   takes no more output; what is queued is still sent, and TLS's close_notify behind it
 * LINGERING  our FIN is sent; input is read and discarded, so that unread bytes do not make the
 *            kernel send a reset that destroys the answer on its way (RFC 9112 section 9.6)
 * CLOSING    cancelled; the descriptor is closed when the kernel is done with it */
enum conn_state {
    CONN_HANDSHAKE,
    CONN_OPEN,
    CONN_FLUSHING,
    CONN_LINGERING,
    CONN_CLOSING,
    CONN_STATES
};

/* Public for embedding and for the fields marked so. An idle one holds no block and no chunk. */
struct conn {
    struct net *net;
    int fd;
    uint8_t state;  /* enum conn_state */
    uint8_t family; /* AF_INET, AF_INET6 or AF_UNIX */
    /* something may be in the socket that was not read: the edge is remembered here */
    bool readable;
    bool eof; /* public: recv() returned 0, or TLS's close_notify came */
    /* public: the peer has closed its side, or worse; answers may still get through */
    bool gone;
    bool broken; /* public: nothing gets through */
    bool full;   /* output rose above NET_HIGH_WATER and drained() is owed */
    /* set by the protocol, until then: the peer must not have all of it before drained() */
    bool ends_apart;
    bool linger; /* FLUSHING goes to LINGERING, not straight to CLOSING */
    bool pinned; /* not to be freed yet: conn_pin() */
    bool peer_known;
    bool opened;       /* the protocol knows of it */
    bool awaits_proxy; /* the PROXY protocol's header has not come yet: nobody reads before that */
    bool is_guest; /* public: it came by a socket that was given back; see listener_give_back() */
    uint16_t peer_port;    /* network order; here, where it fits between others */
    uint32_t out_reserved; /* bytes of conn_out() not yet committed, 0 = none */
    struct list all, dirty, resume;
    struct tls *tls;           /* NULL: plain */
    struct listener *listener; /* where it was accepted, while that is open; else NULL */
    struct io_op watch, send;
    struct timer timer;        /* filed no later than what is due next; see conn_arm() */
    int64_t deadline_ns;       /* the protocol's, or the lingering's; 0 = none */
    int64_t send_due_ns;       /* while a send is in flight */
    struct block *in;          /* public: NULL or the block that holds unread input */
    uint32_t in_start, in_end; /* public: input is in->data[in_start..in_end) */
    uint32_t lingered;         /* bytes discarded */
    uint32_t peer_scope;
    struct in6_addr peer;        /* IPv4 in the first four bytes */
    struct outq out;             /* plain bytes: what is sent, or made into TLS records */
    size_t out_bytes;            /* public: committed and not yet sent */
    struct net_proxied *proxied; /* public: NULL where no proxy said anything */
};

/* Whether output rose above NET_HIGH_WATER and has not fallen below NET_LOW_WATER since: drained()
 * will tell. */
static inline bool
conn_is_full(const struct conn *c)
{
    return c->full;
}

/* Reads once into the block behind in_end, taking a block first when there is none. Returns the
 * number of bytes, 0 at the end of the stream, -EAGAIN when nothing is there (an event will tell),
 * -ENOBUFS when the block is full, -ENOMEM, or -ECONNRESET after broken() was called. One call
 * costs one recv() (several, with TLS); a short read means that the socket is drained. */
int conn_read(struct conn *c);

/* readable() is called from the next net_turn(): for input that was left in the block or in the
 * socket. */
void conn_resume(struct conn *c);
/* There may be input that no event has told of yet: the next conn_read() looks. */
void conn_look(struct conn *c);

/* Makes room: a block of at least cap bytes, input moved to its start. 0 or -ENOMEM with nothing
 * changed. */
int conn_in_grow(struct conn *c, uint32_t cap);
/* Gives the block back; input is forgotten. */
void conn_in_drop(struct conn *c);

/* At most one deadline; due_ns 0 = none. Moving it later costs no list work. */
void conn_deadline(struct conn *c, int64_t due_ns);

/* --- output: conn_* calls after broken or conn_finish() drop what they are given --- */

/* Room for need contiguous bytes behind what is queued, or NULL (-ENOMEM, broken). *room may be
 * more than need. What is written there counts from conn_out_commit() on; a second conn_out()
 * forgets the first. Kept over turns (the head of an answer waits so for its body). */
char *conn_out(struct conn *c, size_t need, size_t *room);
void conn_out_commit(struct conn *c, size_t n);
void conn_out_cancel(struct conn *c);

/* Queues a copy. 0, -ENOMEM (nothing taken) or -EPIPE. */
int conn_write(struct conn *c, const char *p, size_t n);
/* Queues p without a copy; ops->release(owner) is called once when it is sent or dropped, also on
 * errors and perhaps inside. */
int conn_write_held(struct conn *c, const char *p, size_t n, void *owner);

/* Queues n bytes of a regular file from `at` on, to be sent from the page cache. Takes fd, also on
 * errors, and closes it when they are sent or dropped. A file that turns out to be shorter breaks the
 * connection with -ENODATA. Errors as of conn_write(). */
int conn_write_file(struct conn *c, int fd, uint64_t at, uint64_t n);

/* --- the end --- */

/* No more output: close when what is queued has been sent. linger: the peer may be sending still.
 * */
void conn_finish(struct conn *c, bool linger);
/* Close now; unsent output is dropped. Never frees before the return. */
void conn_close(struct conn *c);
/* As if the other end had gone; it finds that we have. Shake mode's. */
void conn_hang_up(struct conn *c);
/* A pinned connection is closed but not freed, and keeps its input block. Unpinning never frees
 * before the return. */
void conn_pin(struct conn *c);
void conn_unpin(struct conn *c);

/* Addresses as the PROXY protocol told them, or else the kernel; AF_UNSPEC when that no longer does.
 * The peer's is read once (at the latest by now) and remembered. Valid until the next call of either
 * for any connection of the net. */
const struct sockaddr_storage *conn_peer(struct conn *c);
const struct sockaddr_storage *conn_local(struct conn *c);
/* The same peer is one of proxy.trusted. */
bool conn_peer_is_trusted(struct conn *c);

/* --- addresses ---------------------------------------------------------------------------------- */

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80". false: none of these,
 * *out is untouched. */
bool net_address_parse(struct slice text, struct net_address *out);
/* An address without port, "" where there is none. Returns its length. */
size_t net_address_text(const struct net_address *a, char text[INET6_ADDRSTRLEN]);
/* ip: 4 or 16 bytes in network order. */
struct net_address net_address_make(int family, const void *ip, uint16_t port);
struct net_address net_address_of(const struct sockaddr_storage *from);
struct sockaddr_storage net_address_sockaddr(const struct net_address *a);
bool net_trusts(const struct net *net, const struct net_address *a);

/* The header of the PROXY protocol at the beginning of n bytes, of the versions that are asked for.
 * Returns its length, with *out new (free() it and its tls) or NULL where the connection's own ends
 * count; 0: it has not come whole; -EPROTO: it is none, with *why; -ENOMEM. */
ssize_t proxy_header_parse(const char *p, size_t n, unsigned versions, struct net_proxied **out,
                           const char **why);

/* Is the peer out of reach: sent bytes that it has not acknowledged, and no sign of its kernel for
 * so long? Never of a unix socket's. */
bool conn_is_unreachable(const struct conn *c, int64_t ms);

/* What the application may know of the client's TLS connection: new, its to tls_about_give(). What
 * a proxy has told goes before what we speak with the proxy. NULL: there is no TLS, or no memory. */
struct tls_about *conn_tls_about(struct conn *c);

/* Whether the client speaks TLS, with us or, as that has told, with a proxy. */
static inline bool
conn_is_tls(const struct conn *c)
{
    return c->tls != NULL || (c->proxied != NULL && c->proxied->tls != NULL);
}

/* --- private to net/ -------------------------------------------------------------------------- */
/* Owns fd. The connection, which may be closed already; NULL: no memory. */
struct conn *conn_open(struct net *net, int fd, uint8_t family, bool is_tls);
/* TLS is up, or is not spoken after all. */
void conn_opened(struct conn *c, bool is_misplaced);
/* No handshake, as it failed: what is on the wire is sent, then it closes. */
void conn_refuse(struct conn *c);
/* There may be something for the next flush. */
void conn_dirty(struct conn *c);
void conn_fail(struct conn *c, int err);
void conn_free(struct conn *c);
void conn_expire(struct timer *timer);
void conn_arm(struct conn *c);
void conn_sent_all(struct conn *c);
/* an operation has ended: close the descriptor if it was the last */
void conn_settle(struct conn *c);
void conn_run(struct conn *c); /* net_turn() on a resumed connection */
void out_submit(struct conn *c);
void out_complete(struct io_op *op, int res, unsigned flags);
void out_drop(struct conn *c);
void listeners_adjust(struct net *net); /* after conns_n or accept_starved changed */
void listeners_fini(struct net *net);
void listeners_abandon(struct net *net);
void listener_retry(struct timer *timer);
void
proxy_header_await(struct conn *c); /* conn_open(), where the net's connections begin with one */
/* Reads it. True once it is there, and others may read; false: not yet, or the connection is broken. */
bool proxy_header_read(struct conn *c);
void net_proxied_free(struct net_proxied *proxied); /* NULL is fine */

struct block *block_take(struct net *net, uint32_t cap);
void block_give(struct net *net, struct block *b);
struct chunk *chunk_take(struct net *net, size_t need);
void chunk_give(struct net *net, struct chunk *ch);
void blocks_fini(struct net *net);

#endif
