/* ctl.h: what can be asked of a running server, and told to it: the commands of ringcornctl.
 *
 *   ctl.c           the socket (control.socket) and who speaks on it
 *   ctl_commands.c  the table of commands; those that the master answers by itself
 *   ctl_ask.c       those that workers are asked for
 *   advise.c        one of the first kind that may take its time: what would be better for each route
 *
 * On the socket both sides write JSON, one object a line:
 *     {"version":1,"command":"scale","arguments":{"workers":4}}
 *     {"version":1,"ok":true,"result":{"workers":4}}            or  {"version":1,"ok":false,"error":"..."}
 * Answers come in the order of the questions. A version that is not CTL_VERSION, or none, is refused; members are added without a new
 * version, never taken away.
 *
 * All of it on the master's one thread. */
#ifndef RINGCORN_MASTER_CTL_H
#define RINGCORN_MASTER_CTL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "conf/json_doc.h"

enum { CTL_VERSION = 1 };

struct master;
struct child;

/* One command, from its question to its answer. Embedded in its owner. */
struct ctl_job {
    /* Called once, perhaps inside ctl_do(), unless ctl_abandon() was called before: is_ok and out are set. */
    void (*done)(struct master *m, struct ctl_job *job);
    bool is_ok;
    struct buf out; /* JSON; or, where it is not ok, the text of the reason. The owner frees it */

    /* private, while it waits: */
    struct list node;
    int64_t until_ns;                                                    /* 0 = none */
    void (*look)(struct master *m, struct ctl_job *job, int64_t now_ns); /* may end it */
    struct ctl_asked *asked;                                             /* workers */
    unsigned asked_n;
    const char *member;           /* of each worker's part */
    unsigned reload;              /* number of the one that it waits for */
    struct advise_before *before; /* figures to compare with; advise.c */
};

/* Runs a command. args: an object or nothing. job is zeroed but for done and stays until that is called. */
void ctl_do(struct master *m, struct ctl_job *job, const char *command, struct json_ref args);
/* The owner goes away before the end. */
void ctl_abandon(struct ctl_job *job);

/* --- between the files of this subject --- */
void ctl_wait(struct master *m, struct ctl_job *job); /* puts it on the list of those that wait */
void ctl_end(struct master *m, struct ctl_job *job, bool is_ok);
void ctl_fail(struct master *m, struct ctl_job *job, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Asks all workers (slot < 0) or one. kind: enum control_kind. */
void ctl_ask(struct master *m, struct ctl_job *job, int kind, const char *member, int slot);
/* Readings of the last ten minutes, a minute each, the oldest first; none where nobody can ask. They begin anew with each reload, and where
 * another number of workers is wanted: what was before says nothing of what is now. */
enum { ADVISE_PAST_MAX = 11 };
struct advise_past {
    struct advise_before *v[ADVISE_PAST_MAX];
    unsigned n;
    int64_t at_ns;                      /* the next; 0 = none was taken yet */
    unsigned generation, wanted, ended; /* of the newest */
};
void advise_turn(struct master *m, int64_t now_ns);
void advise_free(struct master *m);
/* args: "seconds", or none. */
void advise_do(struct master *m, struct ctl_job *job, struct json_ref args);
void advise_forget(struct ctl_job *job);
/* In a forked child: closes descriptors, no more. */
void ctl_ask_forget(const struct ctl_job *job);

#endif
