/* handover.h: what one master tells the program that is to take its place.
 *
 * A memfd of lines of text, since the next program may be another version: lines that it does not know are passed over.
 *
 *   ringcorn 1                                     the format
 *   workers CONFIGURED WANTED
 *   systemd N                                      sockets that systemd passed
 *   tickets ROTATE_NS HEX                          keys of session tickets
 *   metrics FD                                     the memfd of the counters
 *   bound SET KIND PER_SLOT TLS PORT TEXT PATH     lent.c; SET is app, health or control
 *   socket FD DEV INO                              one of the bound before it
 *   end
 *
 * HANDOVER_VARIABLE names the memfd, a socket between the two masters, who is meant, and who goes. Descriptors keep their numbers. */
#ifndef RINGCORN_MASTER_HANDOVER_H
#define RINGCORN_MASTER_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "net/tls.h"

#define HANDOVER_VARIABLE "_RINGCORN_HANDOVER"

struct master;

/* What was read. */
struct handover {
    int channel; /* to the master that goes */
    pid_t from;
    unsigned workers, wanted;
    bool has_tickets;
    int64_t rotate_ns;
    unsigned char tickets[TLS_TICKETS_SIZE];
    int metrics_fd;                   /* -1 = none, or taken */
    struct list app, health, control; /* struct bound */
};

/* As a memfd, new; or -errno. */
int handover_write(const struct master *m);
/* Of the environment, which loses the variable. Returns 1 with *h filled in, 0 where this is an ordinary start, or
 * -EXIT_CODE_SYSTEM, printed. */
int handover_read(struct handover *h);
/* Closes what nobody took. */
void handover_fini(struct handover *h);
/* In a forked child: closes descriptors, no more. */
void handover_forget(const struct handover *h);

#endif
