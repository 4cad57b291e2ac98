/* live.h: how many of each thing are alive in this process. Tests read them to find what was left behind.
 * Written by the loop thread only, without locks; a reader elsewhere may see a value that is a moment old. */
#ifndef RINGCORN_BASE_LIVE_H
#define RINGCORN_BASE_LIVE_H

/* X(name): the one list of counters. */
#define LIVE_COUNTERS(X)                                                                           \
    X(conns)       /* open connections */                                                          \
    X(cycles)      /* requests between head and end */                                             \
    X(chunks)      /* output chunks not yet released */                                            \
    X(held)        /* Python buffers held for output */                                            \
    X(read_blocks) /* input buffers lent to connections */                                         \
    X(handles)     /* loop handles (callbacks) allocated and not on a free list */                 \
    X(transports)  /* asyncio transports of ours */                                                \
    X(polls)       /* descriptors watched for asyncio */                                           \
    X(file_ops)    /* operations on files in flight for Python */                                  \
    X(jobs)        /* sync jobs queued or running that are Python calls */                         \
    X(leases)      /* leases not yet closed */                                                     \
    X(tls)         /* TLS connections of Python's transports */

struct live {
#define X(name) long name;
    LIVE_COUNTERS(X)
#undef X
};

extern struct live live;

#endif
