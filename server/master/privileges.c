/* privileges.c: users and groups: looked up in the master, given up in the worker. */
#include "privileges.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/base.h"

enum { NAME_SIZE = LOGIN_NAME_MAX + 1 };

/* A whole decimal number that fits an id; -1 (which means "unchanged" to the kernel) is none. */
static bool
is_number(const char *text, unsigned *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (*end != '\0' || errno != 0 || n >= UINT32_MAX)
        return false;
    *out = (unsigned)n;
    return true;
}

static const struct passwd *
find_user(const char *text, uid_t *uid)
{
    unsigned number;
    const struct passwd *pw = getpwnam(text);
    if (pw == NULL && is_number(text, &number)) {
        *uid = number;
        return getpwuid(number);
    }
    if (pw != NULL)
        *uid = pw->pw_uid;
    return pw;
}

static int
find_group(const char *text, gid_t *gid)
{
    unsigned number;
    const struct group *gr = getgrnam(text);
    if (gr != NULL)
        *gid = gr->gr_gid;
    else if (is_number(text, &number))
        *gid = number;
    else
        return -ENOENT;
    return 0;
}

int
owner_find(const char *text, uid_t *uid, gid_t *gid)
{
    char copy[2 * NAME_SIZE];
    if (strlen(text) >= sizeof(copy))
        return -ENOENT;
    memcpy(copy, text, strlen(text) + 1);
    char *group = strchr(copy, ':');
    uid_t u = (uid_t)-1;
    gid_t g = (gid_t)-1;
    if (group != NULL)
        *group++ = '\0';
    if (copy[0] != '\0') {
        const struct passwd *pw = find_user(copy, &u);
        if (u == (uid_t)-1)
            return -ENOENT;
        if (pw != NULL)
            g = pw->pw_gid;
    }
    if (group != NULL && group[0] != '\0' && find_group(group, &g) < 0)
        return -ENOENT;
    *uid = u;
    *gid = g;
    return 0;
}

static int
find_groups(const char *user, gid_t gid, struct privileges *p)
{
    int n = 0;
    if (user != NULL)
        getgrouplist(user, gid, NULL, &n);
    n = n > 0 ? n : 1;
    gid_t *groups = calloc((size_t)n, sizeof(*groups));
    if (groups == NULL)
        return -ENOMEM;
    groups[0] = gid;
    if (user != NULL && getgrouplist(user, gid, groups, &n) < 0) {
        free(groups);
        return -EAGAIN; /* the list grew between the two questions */
    }
    p->groups = groups;
    p->groups_n = n;
    return 0;
}

int
privileges_find(const struct conf *conf, struct privileges *out)
{
    struct privileges p = { .uid = geteuid(), .gid = getegid() };
    char name[NAME_SIZE] = ""; /* a copy: the next look-up overwrites what this one found */
    if (conf->user != NULL) {
        uid_t uid = (uid_t)-1;
        const struct passwd *pw = find_user(conf->user, &uid);
        if (uid == (uid_t)-1) {
            log_operator("user: there is no user %s on this machine; create it, or name another",
                         conf->user);
            return -EXIT_CODE_SYSTEM;
        }
        if (pw == NULL && conf->group == NULL) {
            log_operator("user: %s has no entry on this machine, so no group: set `group` too",
                         conf->user);
            return -EXIT_CODE_SYSTEM;
        }
        p.uid = uid;
        if (pw != NULL) {
            p.gid = pw->pw_gid;
            snprintf(name, sizeof(name), "%s", pw->pw_name);
        }
    }
    if (conf->group != NULL && find_group(conf->group, &p.gid) < 0) {
        log_operator("group: there is no group %s on this machine; create it, or name another",
                     conf->group);
        return -EXIT_CODE_SYSTEM;
    }
    p.is_changed = p.uid != geteuid() || p.gid != getegid();
    if (p.is_changed && geteuid() != 0) {
        log_operator("user, group: only root may become %s; start as root, or leave them out",
                     conf->user != NULL ? conf->user : conf->group);
        return -EXIT_CODE_SYSTEM;
    }
    if (p.is_changed && find_groups(name[0] != '\0' ? name : NULL, p.gid, &p) < 0) {
        log_operator("user: the groups of %s cannot be found",
                     conf->user != NULL ? conf->user : conf->group);
        return -EXIT_CODE_SYSTEM;
    }
    *out = p;
    return 0;
}

void
privileges_fini(struct privileges *p)
{
    free(p->groups);
    p->groups = NULL;
}

int
privileges_drop(const struct privileges *p)
{
    if (!p->is_changed)
        return 0;
    if (setgroups((size_t)p->groups_n, p->groups) < 0 || setresgid(p->gid, p->gid, p->gid) < 0 ||
        setresuid(p->uid, p->uid, p->uid) < 0)
        return -errno;
    /* The order matters and every call can be refused (user namespaces, RLIMIT_NPROC): look, do
     * not trust. */
    if (geteuid() != p->uid || getuid() != p->uid || getegid() != p->gid || getgid() != p->gid ||
        (p->uid != 0 && setuid(0) == 0))
        return -EPERM;
    /* The kernel takes /proc/self and core dumps away from a process that changed its user;
     * after an exec it would give them back. Applications read /proc/self/fd, and nothing of
     * root's is in this memory. */
    (void)prctl(PR_SET_DUMPABLE, 1);
    return 0;
}
