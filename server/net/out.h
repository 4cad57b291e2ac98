/* out.h: an output chunk, private to net/: some bytes of its own, and up to NET_IOV pieces that lie
 * in them, in memory that is held for it, or in a file. The pieces are the iovec array of one send;
 * one that lies in a file (iov_base is NULL) is a send of its own. */
#ifndef RINGCORN_NET_OUT_H
#define RINGCORN_NET_OUT_H

#include "net.h"

struct chunk {
    struct chunk *next;
    uint32_t cap;     /* bytes of data */
    uint32_t used;    /* of them written and committed */
    uint8_t first, n; /* pieces [first, n) are unsent */
    struct iovec cut; /* what is sent of a piece that does not go whole */
    struct iovec iov[NET_IOV];
    void *owner[NET_IOV]; /* NULL: the piece lies in data; of one in a file its struct file_piece */
    char data[];
};

/* The queue whose chunks the kernel gets: out.c's own, or that of TLS records. */
struct outq *out_wire(struct conn *c);

/* How many of the unsent bytes may go now: what has filled the connection leaves its end for a send of its own, behind drained(), where the
 * protocol wants that (ends_apart). */
size_t out_allowed(const struct conn *c);

/* Bytes behind what is queued; those of them that the kernel has do not move. capacity: of a new
 * chunk, should it need one. 0 or -ENOMEM. */
int outq_append(struct conn *c, struct outq *q, const char *p, size_t n, size_t capacity);
/* Takes n bytes off the front, which have been sent, or made into records; owners are released. */
void outq_advance(struct conn *c, struct outq *q, size_t n);
/* Gives all back but what the kernel has. */
void outq_drop(struct conn *c, struct outq *q);

/* --- file.c ------------------------------------------------------------------------------------ */

enum { FILE_WINDOW = 1024 * 1024 }; /* bytes that one send of a file takes at most */

enum file_state { FILE_READY, FILE_LOADING };

/* Takes fd unless it returns NULL (no memory). */
struct file_piece *out_file_new(struct conn *c, int fd, uint64_t at);
void out_file_drop(struct file_piece *f);
/* Its first n bytes have been sent, or made into records. */
void out_file_advance(struct file_piece *f, size_t n);
/* Arms c->send; or the disk is asked first, and conn_dirty() will follow. left: bytes of the piece. */
enum file_state out_file_send(struct conn *c, struct file_piece *f, size_t left);
/* Reads; 0: the disk is asked first, as above; -ENODATA: the file has become shorter; or -errno. */
ssize_t out_file_read(struct conn *c, struct file_piece *f, char *to, size_t n);
/* What was read for connections of this net. */
void files_turn(struct net *net);
void files_fini(struct net *net);

#endif
