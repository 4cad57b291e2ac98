/* uds.c: unix:/path as a listening socket.
 *
 * The kernel has no SO_REUSEPORT for unix sockets: one socket, shared by all workers. The file
 * is made with no rights at all and gets its owner and mode afterwards, so it is never open to
 * more people than it should be; bind() under another name and rename() would do that too, but
 * getsockname() would tell applications the wrong path. Owns:  the file, by device and inode; it
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

bool
uds_is_ours(const struct bound *b)
{
    struct stat st;
    return b->ino != 0 && lstat(b->path, &st) == 0 && st.st_dev == b->dev && st.st_ino == b->ino;
}

void
uds_remove(const struct bound *b)
{
    if (uds_is_ours(b))
        (void)unlink(b->path);
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
clear_path(const struct conf_bind *bind, const struct sockaddr_un *a)
{
    struct stat st;
    if (lstat(bind->path, &st) < 0) {
        if (errno == ENOENT)
            return 0;
        log_operator("cannot listen on %s: %s", bind->text, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    if (!S_ISSOCK(st.st_mode)) {
        log_operator(
            "cannot listen on %s: there is a %s in its place; remove it, or choose another path",
            bind->text, S_ISDIR(st.st_mode) ? "folder" : "file that is no socket");
        return -EXIT_CODE_SYSTEM;
    }
    if (is_answered(a)) {
        log_operator(
            "cannot listen on %s: another server answers there; stop it, or choose another path",
            bind->text);
        return -EXIT_CODE_SYSTEM;
    }
    if (unlink(bind->path) < 0 && errno != ENOENT) {
        log_operator("cannot remove the stale socket %s: %s", bind->path, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    return 0;
}

int
uds_apply(const struct bound *b, const struct conf *conf)
{
    if (!uds_is_ours(b))
        return 0;
    if (conf->uds_owner != NULL) {
        uid_t uid;
        gid_t gid;
        if (owner_find(conf->uds_owner, &uid, &gid) < 0) {
            log_operator("uds.owner: there is no such user or group: %s", conf->uds_owner);
            return -EXIT_CODE_SYSTEM;
        }
        if (lchown(b->path, uid, gid) < 0) {
            log_operator("cannot give %s to %s: %s; only root may", b->path, conf->uds_owner,
                         strerror(errno));
            return -EXIT_CODE_SYSTEM;
        }
    }
    if (chmod(b->path, conf->uds_mode) < 0) {
        log_operator("cannot set the mode of %s: %s", b->path, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    return 0;
}

static int
make_file(struct bound *b, int fd, const struct sockaddr_un *a)
{
    mode_t saved = umask(0777);
    int err = bind(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? -errno : 0;
    umask(saved);
    struct stat st = { 0 };
    if (err == 0 && lstat(b->path, &st) < 0)
        err = -errno;
    if (err < 0) {
        log_operator("cannot listen on %s: %s%s", b->text, strerror(-err),
                     err == -ENOENT   ? "; make its folder first"
                     : err == -EACCES ? "; its folder must be writable for this user"
                                      : "");
        return -EXIT_CODE_SYSTEM;
    }
    b->dev = st.st_dev;
    b->ino = st.st_ino;
    return 0;
}

int
uds_open(struct sockets *s, const struct conf_bind *bind, const struct conf *conf,
         struct sockets_change *change)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    if (strstr(bind->path, "{slot}") != NULL) {
        log_operator(
            "cannot listen on %s: a path for each worker ({slot}) is not supported; write one path",
            bind->text);
        return -EXIT_CODE_SYSTEM;
    }
    if (strlen(bind->path) >= sizeof(a.sun_path)) {
        log_operator(
            "cannot listen on %s: the path is longer than the %zu bytes that the kernel allows",
            bind->text, sizeof(a.sun_path) - 1);
        return -EXIT_CODE_SYSTEM;
    }
    memcpy(a.sun_path, bind->path, strlen(bind->path) + 1);
    BOUNDS_EACH(b, &s->bounds)
        /* A file that somebody removed is made anew. */
        if (b->kind == CONF_BIND_UNIX && strcmp(b->path, bind->path) == 0 && uds_is_ours(b)) {
            b->is_kept = true;
            return 0;
        }
    BOUNDS_EACH(b, &change->fresh)
        if (b->kind == CONF_BIND_UNIX && strcmp(b->path, bind->path) == 0)
            return 0;
    int code = clear_path(bind, &a);
    if (code < 0)
        return code;
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        log_operator("cannot listen on %s: %s", bind->text, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    struct bound *b = bound_new(CONF_BIND_UNIX, bind->text, false);
    if (b == NULL || (b->path = strdup(bind->path)) == NULL) {
        if (b != NULL)
            bound_free(b);
        log_operator("cannot listen on %s: out of memory", bind->text);
        return -EXIT_CODE_SYSTEM;
    }
    code = make_file(b, fd, &a);
    if (code == 0)
        code = uds_apply(b, conf);
    if (code == 0 && bound_add(s, b, fd_take(&fd)) < 0)
        code = -EXIT_CODE_SYSTEM;
    if (code < 0) {
        bound_free(b);
        return code;
    }
    list_add_tail(&change->fresh, &b->node);
    return 0;
}
