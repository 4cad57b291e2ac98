/* sockets.h: the listening sockets that the master owns.
 *
 *   sockets.c    the set: what `bind` asks for, what is there already, what goes
 *   tcp.c        addresses: names resolved, ports probed, one SO_REUSEPORT socket a slot
 *   uds.c        files: stale ones replaced, mode and owner, removed at the end, one path a slot
 *   inherited.c  fd://N and systemd
 *   lent.c       the set as another master gets it, and who answers for it
 *
 * A bound is one address; it has one socket, shared by all workers, or one socket a slot (TCP with
 * reuse_port, a path with {slot}). Every socket has an id that is never used twice. Sockets are bound at once and made
 * to listen only when someone is ready to accept.
 *
 * Errors of the operator are printed by log_operator(), one line each, when they happen;
 * functions then return -EXIT_CODE_SYSTEM. Runs in the master only, on its one thread. */
#ifndef RINGCORN_MASTER_SOCKETS_H
#define RINGCORN_MASTER_SOCKETS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/list.h"
#include "conf/conf.h"

enum { SLOT_SHARED = -1 }; /* a socket that every worker accepts from */

struct msocket {
    int32_t id;
    int fd;
    int slot; /* SLOT_SHARED, or whose it is */
    bool is_listening;
    dev_t dev; /* UNIX: the file we made */
    ino_t ino;
};

struct bound {
    struct list node; /* in a sockets.bounds, .leaving, or a sockets_change.fresh */
    enum conf_bind_kind kind;
    char *text; /* for messages: "127.0.0.1:8000", "[::1]:8000", "unix:/run/app.sock", "fd://3" */
    bool is_per_slot;
    bool is_tls;
    bool is_tls_next;  /* by the change under way */
    struct msocket *v; /* one, or one a slot: v[slot] */
    unsigned n;
    struct sockaddr_storage addr; /* TCP: with the resolved port */
    socklen_t addr_len;
    uint16_t port_asked; /* TCP: as in the configuration; 0 = any */
    char *path;          /* UNIX; with {slot} in it where is_per_slot */
    bool is_kept;        /* the change under way keeps it */
    /* another master has it too and answers for it: its door and its files are not ours */
    bool is_lent;
    int64_t quiet_since_ns; /* leaving: when its queue was first seen empty; -1 = it was not */
    int64_t leave_by_ns;    /* leaving: closed by then whatever its queue holds */
};

struct sockets {
    struct list bounds;
    /* not in the configuration any more; served until their queues are empty */
    struct list leaving;
    struct list lent; /* adopted, and not in the configuration: still served by the other master */
    int32_t next_id;
};

/* What another configuration would change: bounds opened and not yet part of the set. */
struct sockets_change {
    struct list fresh;
    const struct conf *conf; /* borrowed until commit or abort */
};

void sockets_init(struct sockets *s);
/* Closes everything; removes the unix socket files that are still ours. */
void sockets_fini(struct sockets *s);

/* Opens (binds) what conf asks for and the set does not have, for slots many slots; the set
 * itself is unchanged. On success ends with sockets_commit() or sockets_abort(). May block on
 * name look-up. */
int sockets_prepare(struct sockets *s, const struct conf *conf, unsigned slots,
                    struct sockets_change *change);
/* Makes the fresh bounds listen for this slot (and the shared ones); the last thing in a change
 * that can fail. */
int sockets_change_listen(struct sockets *s, struct sockets_change *change, unsigned slot);
/* The fresh bounds join the set; those that conf does not ask for begin to leave (nobody new
 * gets in). */
void sockets_commit(struct sockets *s, struct sockets_change *change);
void sockets_abort(struct sockets_change *change);

/* Opens the sockets of slots up to slots; conf: mode and owner of files. On failure some may be opened: they do not
 * listen, hurt nobody, and are used the next time. */
int sockets_grow(struct sockets *s, unsigned slots, const struct conf *conf);
/* Makes all sockets of slot, the shared ones, and all that are files listen. */
int sockets_listen(struct sockets *s, unsigned slot, const struct conf *conf);

/* Nobody new can connect any more: SYNs are dropped, unix files removed; who is in a queue stays
 * there. Sockets that others own too (fd://, systemd) are left alone. */
void sockets_shut_doors(struct sockets *s);
/* Whether a connection waits to be accepted in a queue that is ours to empty. */
bool sockets_are_waiting(const struct sockets *s);
bool bound_is_waiting(const struct bound *b);

/* What is in the set, as lines of text for another master (handover.c); name: of the set. The descriptors are passed under
 * their numbers. */
void sockets_write(const struct sockets *s, const char *name, FILE *out);
void sockets_pass(const struct sockets *s);
/* Reads one line, words is what follows "bound NAME" or "socket". Returns 0, or -EINVAL. */
int bound_read(const char *words, struct list *bounds);
int bound_read_socket(const char *words, struct list *bounds);
/* The bounds that were read join an empty set, lent. */
void sockets_adopt(struct sockets *s, struct list *bounds);
/* From here on another master answers for the set; or this one does. */
void sockets_lend(struct sockets *s);
void sockets_own(struct sockets *s, const struct conf *conf);
/* How many sockets systemd passed; told in the place of its variables. */
int inherited_systemd_fds(void);
void inherited_adopt(int systemd_fds);

/* Closes the descriptors only: for a forked child, which must neither hold a socket open nor
 * remove a file. */
void sockets_forget(const struct sockets *s);
void sockets_change_forget(const struct sockets_change *change);

void bound_free(struct bound *b);

/* Every bound b of a list; the body may not unlink it. */
#define BOUNDS_EACH(b, list_)                                                                      \
    for (struct bound *b = CONTAINER_OF((list_)->next, struct bound, node); &b->node != (list_);   \
         b = CONTAINER_OF(b->node.next, struct bound, node))

/* --- between the files of this subject --- */

/* Whether what a bind of TCP sockets accepts is to speak TLS. */
bool bind_is_tls(const struct conf *conf, const struct conf_bind *bind);

struct bound *bound_new(enum conf_bind_kind kind, const char *text, bool is_per_slot);
/* Appends a socket (fd is the bound's from here on, also on failure). Returns 0 or -ENOMEM. */
int bound_add(struct sockets *s, struct bound *b, int fd);
int bound_listen(struct bound *b, struct msocket *k, unsigned backlog);
/* Nobody new gets in. */
void bound_shut_door(struct bound *b);
/* What of the configuration can change under a socket that is in use. */
void bound_apply(struct bound *b, const struct conf *conf);

int tcp_open(struct sockets *s, const struct conf_bind *bind, bool is_per_slot, unsigned slots,
             struct sockets_change *change);
int tcp_add_slot(struct sockets *s, struct bound *b);
/* Whether another server listens here: 0 or -EADDRINUSE. To be asked just before the first
 * listen(). */
int tcp_check_alone(const struct sockets *s, const struct bound *b);
void tcp_drop_syns(const struct bound *b);

int uds_open(struct sockets *s, const struct conf_bind *bind, const struct conf *conf,
             unsigned slots, struct sockets_change *change);
/* errors are printed */
int uds_add_slot(struct sockets *s, struct bound *b, const struct conf *conf);
/* Whether the file at the socket's path is the one we made. */
bool uds_is_ours(const struct bound *b, const struct msocket *k);
/* Mode and owner as conf says. */
int uds_apply(const struct bound *b, const struct conf *conf);
void uds_remove(const struct bound *b);

int inherited_open(struct sockets *s, const struct conf_bind *bind, struct sockets_change *change);

#endif
