/* uds.c: unix:/path as a listening socket.
 *
 * The kernel has no SO_REUSEPORT for unix sockets: one socket, shared by all workers, or with {slot} in
 * the path a file and a socket for each slot, for a proxy to choose among. The file
 * is made with no rights at all and gets its owner and mode afterwards, so it is never open to
 * more people than it should be; bind() under another name and rename() would do that too, but
 * getsockname() would tell applications the wrong path. Owns:  the files, by device and inode; each
 * is removed only while it is still that one. */
#include "sockets.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "privileges.h"

#define SLOT "{slot}"

/* Where a socket of the bound lies: {slot} is its number. A path that is too long is cut (uds_open() has
 * refused it). */
static struct sockaddr_un
address_of(const char *path, int slot)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    const char *mark = slot != SLOT_SHARED ? strstr(path, SLOT) : NULL;
    if (mark == NULL)
        snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    else
        snprintf(a.sun_path, sizeof(a.sun_path), "%.*s%d%s", (int)(mark - path), path, slot,
                 mark + strlen(SLOT));
    return a;
}

bool
uds_is_ours(const struct bound *b, const struct msocket *k)
{
    struct sockaddr_un a = address_of(b->path, k->slot);
    struct stat st;
    return k->ino != 0 && lstat(a.sun_path, &st) == 0 && st.st_dev == k->dev && st.st_ino == k->ino;
}

void
uds_remove(const struct bound *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        struct sockaddr_un a = address_of(b->path, b->v[i].slot);
        if (uds_is_ours(b, &b->v[i]))
            (void)unlink(a.sun_path);
    }
}

/* Somebody accepts connections at the path, or would as soon as his queue has room. */
static bool
is_answered(const struct sockaddr_un *a)
{
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true; /* cannot tell: leave the file alone */
    return connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 || errno != ECONNREFUSED;
}

/* Makes room for our file: what is there goes only if it is a socket that nobody answers.
 * Returns 0 or -EXIT_CODE_SYSTEM, printed. */
static int
clear_path(const struct sockaddr_un *a)
{
    struct stat st;
    if (lstat(a->sun_path, &st) < 0) {
        if (errno == ENOENT)
            return 0;
        log_operator("cannot listen on unix:%s: %s", a->sun_path, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    if (!S_ISSOCK(st.st_mode)) {
        log_operator("cannot listen on unix:%s: there is a %s in its place; remove it, or choose "
                     "another path",
                     a->sun_path, S_ISDIR(st.st_mode) ? "folder" : "file that is no socket");
        return -EXIT_CODE_SYSTEM;
    }
    if (is_answered(a)) {
        log_operator("cannot listen on unix:%s: another server answers there; stop it, or choose "
                     "another path",
                     a->sun_path);
        return -EXIT_CODE_SYSTEM;
    }
    if (unlink(a->sun_path) < 0 && errno != ENOENT) {
        log_operator("cannot remove the stale socket %s: %s", a->sun_path, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    return 0;
}

/* Mode and owner as conf says. */
static int
apply(const char *path, const struct conf *conf)
{
    if (conf->uds_owner != NULL) {
        uid_t uid;
        gid_t gid;
        if (owner_find(conf->uds_owner, &uid, &gid) < 0) {
            log_operator("uds.owner: there is no such user or group: %s", conf->uds_owner);
            return -EXIT_CODE_SYSTEM;
        }
        if (lchown(path, uid, gid) < 0) {
            log_operator("cannot give %s to %s: %s; only root may", path, conf->uds_owner,
                         strerror(errno));
            return -EXIT_CODE_SYSTEM;
        }
    }
    if (chmod(path, conf->uds_mode) < 0) {
        log_operator("cannot set the mode of %s: %s", path, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    return 0;
}

int
uds_apply(const struct bound *b, const struct conf *conf)
{
    int code = 0;
    for (unsigned i = 0; i < b->n && code == 0; i++) {
        struct sockaddr_un a = address_of(b->path, b->v[i].slot);
        if (uds_is_ours(b, &b->v[i]))
            code = apply(a.sun_path, conf);
    }
    return code;
}

/* A socket bound to the path, with its file: *out has fd, dev and ino. */
static int
make_file(const struct sockaddr_un *a, const struct conf *conf, struct msocket *out)
{
    int code = clear_path(a);
    if (code < 0)
        return code;
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int err = fd < 0 ? -errno : 0;
    mode_t saved = umask(0777);
    if (err == 0 && bind(fd, (const struct sockaddr *)a, sizeof(*a)) < 0)
        err = -errno;
    umask(saved);
    struct stat st = { 0 };
    if (err == 0 && lstat(a->sun_path, &st) < 0)
        err = -errno;
    if (err < 0) {
        log_operator("cannot listen on unix:%s: %s%s", a->sun_path, strerror(-err),
                     err == -ENOENT   ? "; make its folder first"
                     : err == -EACCES ? "; its folder must be writable for this user"
                                      : "");
        return -EXIT_CODE_SYSTEM;
    }
    code = apply(a->sun_path, conf);
    if (code < 0) {
        (void)unlink(a->sun_path);
        return code;
    }
    *out = (struct msocket){ .fd = fd_take(&fd), .dev = st.st_dev, .ino = st.st_ino };
    return 0;
}

int
uds_add_slot(struct sockets *s, struct bound *b, const struct conf *conf)
{
    struct sockaddr_un a = address_of(b->path, b->is_per_slot ? (int)b->n : SLOT_SHARED);
    struct msocket made;
    int code = make_file(&a, conf, &made);
    if (code < 0)
        return code;
    if (bound_add(s, b, made.fd) < 0) {
        (void)unlink(a.sun_path);
        log_operator("cannot listen on unix:%s: out of memory", a.sun_path);
        return -EXIT_CODE_SYSTEM;
    }
    b->v[b->n - 1].dev = made.dev;
    b->v[b->n - 1].ino = made.ino;
    return 0;
}

/* A slot's file that somebody removed is made anew, with a socket of its own; who waits in the queue of
 * the old one has nobody to wait for. */
static int
renew(struct sockets *s, struct bound *b, const struct conf *conf)
{
    for (unsigned i = 0; i < b->n; i++) {
        struct msocket made, *k = &b->v[i];
        struct sockaddr_un a = address_of(b->path, k->slot);
        if (uds_is_ours(b, k))
            continue;
        int code = make_file(&a, conf, &made);
        if (code < 0)
            return code;
        close(k->fd);
        made.slot = k->slot;
        made.id = s->next_id++;
        *k = made;
    }
    return 0;
}

/* The bound that has the path already: of the set (kept) or of this change; NULL: none. */
static struct bound *
find(const struct list *bounds, const struct conf_bind *bind)
{
    BOUNDS_EACH(b, bounds)
        if (b->kind == CONF_BIND_UNIX && strcmp(b->path, bind->path) == 0)
            return b;
    return NULL;
}

int
uds_open(struct sockets *s, const struct conf_bind *bind, const struct conf *conf, unsigned slots,
         struct sockets_change *change)
{
    bool is_per_slot = strstr(bind->path, SLOT) != NULL;
    if (strlen(bind->path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
        log_operator(
            "cannot listen on %s: the path is longer than the %zu bytes that the kernel allows",
            bind->text, sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
        return -EXIT_CODE_SYSTEM;
    }
    struct bound *b = find(&s->bounds, bind);
    /* A shared file that somebody removed is made anew, too: by a bound of its own. */
    if (b != NULL && (is_per_slot || uds_is_ours(b, &b->v[0]))) {
        b->is_kept = true;
        return is_per_slot ? renew(s, b, conf) : 0;
    }
    if (find(&change->fresh, bind) != NULL)
        return 0;
    b = bound_new(CONF_BIND_UNIX, bind->text, is_per_slot);
    if (b == NULL || (b->path = strdup(bind->path)) == NULL) {
        if (b != NULL)
            bound_free(b);
        log_operator("cannot listen on %s: out of memory", bind->text);
        return -EXIT_CODE_SYSTEM;
    }
    int code = 0;
    for (unsigned i = 0; i < (is_per_slot ? slots : 1) && code == 0; i++)
        code = uds_add_slot(s, b, conf);
    if (code < 0) {
        bound_free(b);
        return code;
    }
    list_add_tail(&change->fresh, &b->node);
    return 0;
}
