/* inherited.c: listening sockets that somebody else opened: fd://N, and systemd's socket
 * activation (sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, descriptors from 3 on). They are shared
 * by all workers, listen already, and are never shut down by us. */
#include "sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum { SYSTEMD_FDS_START = 3 };

/* How many sockets systemd passed; asked once, since children must not see the variables. */
static int systemd_fds = -1;

static int
env_int(const char *name)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text == '\0')
        return -1;
    long n = strtol(text, &end, 10);
    return *end != '\0' || n < 0 || n > 1 << 20 ? -1 : (int)n;
}

static int
count_systemd_fds(void)
{
    if (systemd_fds < 0) {
        int n = env_int("LISTEN_FDS");
        systemd_fds = n > 0 && env_int("LISTEN_PID") == (int)getpid() ? n : 0;
        unsetenv("LISTEN_PID");
        unsetenv("LISTEN_FDS");
        unsetenv("LISTEN_FDNAMES");
    }
    return systemd_fds;
}

int
inherited_systemd_fds(void)
{
    return systemd_fds > 0 ? systemd_fds : 0;
}

void
inherited_adopt(int n)
{
    systemd_fds = n;
}

static int
socket_option(int fd, int option)
{
    int value = -1;
    socklen_t n = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &n) < 0 ? -errno : value;
}

static bool
is_tcp(int fd)
{
    int domain = socket_option(fd, SO_DOMAIN);
    return domain == AF_INET || domain == AF_INET6;
}

static bool
is_in(const struct list *bounds, int fd)
{
    BOUNDS_EACH(b, bounds)
        for (unsigned i = 0; i < b->n; i++)
            if (b->v[i].fd == fd)
                return true;
    return false;
}

static int
open_one(struct sockets *s, const struct conf_bind *bind, int fd, struct sockets_change *change)
{
    BOUNDS_EACH(b, &s->bounds)
        if ((b->kind == CONF_BIND_FD || b->kind == CONF_BIND_SYSTEMD) && b->v[0].fd == fd) {
            b->is_kept = true;
            b->is_tls_next = is_tcp(fd) && bind_is_tls(change->conf, bind);
            return 0;
        }
    if (is_in(&change->fresh, fd))
        return 0;
    int type = socket_option(fd, SO_TYPE);
    const char *wrong =
        type == -EBADF || is_in(&s->bounds, fd) || is_in(&s->leaving, fd) || is_in(&s->lent, fd)
            ? "no such descriptor was passed to this process"
        : type == -ENOTSOCK                     ? "it is not a socket"
        : type != SOCK_STREAM                   ? "it is not a stream socket"
        : socket_option(fd, SO_ACCEPTCONN) != 1 ? "it does not listen"
                                                : NULL;
    if (wrong != NULL) {
        log_operator("cannot listen on %s: descriptor %d: %s; whoever starts ringcorn must pass a "
                     "listening socket",
                     bind->text, fd, wrong);
        return -EXIT_CODE_SYSTEM;
    }
    char text[sizeof("fd://") + 3 * sizeof(fd)];
    snprintf(text, sizeof(text), "fd://%d", fd);
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || flags < 0 ||
        fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        log_operator("cannot listen on %s: %s", text, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    struct bound *b = bound_new(bind->kind, text, false);
    if (b == NULL)
        return -EXIT_CODE_SYSTEM;
    if (bound_add(s, b, fd) < 0) {
        bound_free(b);
        return -EXIT_CODE_SYSTEM;
    }
    b->is_tls_next = is_tcp(fd) && bind_is_tls(change->conf, bind);
    list_add_tail(&change->fresh, &b->node);
    return 0;
}

int
inherited_open(struct sockets *s, const struct conf_bind *bind, struct sockets_change *change)
{
    if (bind->kind == CONF_BIND_FD)
        return open_one(s, bind, bind->fd, change);
    int n = count_systemd_fds();
    if (n == 0) {
        log_operator("cannot listen on %s: systemd passed no socket (LISTEN_FDS and LISTEN_PID); "
                     "start ringcorn by a .socket unit, or give an address with --bind",
                     bind->text);
        return -EXIT_CODE_SYSTEM;
    }
    int failed = 0;
    for (int i = 0; i < n; i++)
        failed |= open_one(s, bind, SYSTEMD_FDS_START + i, change);
    return failed;
}
