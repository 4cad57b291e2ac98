/* privileges.h: who the workers are.
 *
 * The master stays what it was started as (it reopens logs and opens privileged ports on a
 * reload); each worker gives up its rights between fork and the first line of Python. Names are
 * looked up in the master, so that a worker needs no name service for it. */
#ifndef RINGCORN_MASTER_PRIVILEGES_H
#define RINGCORN_MASTER_PRIVILEGES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "conf/conf.h"

struct privileges {
    bool is_changed; /* user or group is set, and differs from what we are */
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* supplementary */
    int groups_n;
};

/* Looks up conf->user and conf->group. On success *out is new (privileges_fini()). Returns 0 or
 * -EXIT_CODE_SYSTEM, printed. */
int privileges_find(const struct conf *conf, struct privileges *out);
void privileges_fini(struct privileges *p);
/* Becomes that user for good, and makes sure of it. Returns 0 or -errno; the process must end
 * then. */
int privileges_drop(const struct privileges *p);

/* "user", "user:group" or ":group", names or numbers; what is not given is -1, but a user's name
 * alone gives its group too. Returns 0 or -ENOENT. */
int owner_find(const char *text, uid_t *uid, gid_t *gid);

#endif
