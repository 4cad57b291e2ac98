/* notify.c: sd_notify(3): what the master tells the service manager that started it (Type=notify). One datagram a message to the socket
 * that NOTIFY_SOCKET names, a path or, behind '@', an abstract name; there is no need of libsystemd for that.
 *
 *   READY=1       the first worker is ready, and again at the end of each reload
 *   RELOADING=1   a SIGHUP is being carried out
 *   STOPPING=1    no new connections
 *   STATUS=       the workers, for `systemctl status`
 *   MAINPID=      beside READY=1, for a start by a script that does not exec; and before another program takes over
 *   WATCHDOG=1    twice in WATCHDOG_USEC, while the server lives (pulse.c); the manager then ends one that does not
 *
 * The variables are taken out of the environment: they are not meant for what the application starts.
 * Owns:  the socket. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

/* Takes a variable out of the environment. New, or NULL. */
static char *
env_take(const char *name)
{
    const char *text = getenv(name);
    char *copy = text != NULL && text[0] != '\0' ? strdup(text) : NULL;
    unsetenv(name);
    return copy;
}

static int
open_socket(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t n = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || n >= sizeof(addr.sun_path))
        return -EAFNOSUPPORT;
    memcpy(addr.sun_path, path, n);
    if (path[0] == '@')
        addr.sun_path[0] = '\0';
    socklen_t size =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/' ? 1 : 0));
    FD_OWNED int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, size) < 0)
        return -errno;
    return fd_take(&fd);
}

static int64_t
watchdog_ns(void)
{
    MEM_OWNED char *usec = env_take("WATCHDOG_USEC");
    MEM_OWNED char *pid = env_take("WATCHDOG_PID");
    if (usec == NULL || (pid != NULL && atol(pid) != (long)getpid()))
        return 0;
    long long n = atoll(usec);
    return n > 0 && n < INT64_MAX / 1000 ? n * 1000 : 0;
}

void
notify_open(struct notify *n)
{
    MEM_OWNED char *path = env_take("NOTIFY_SOCKET");
    int64_t watchdog = watchdog_ns();
    *n = (struct notify){ .fd = -1 };
    if (path == NULL)
        return;
    n->fd = open_socket(path);
    if (n->fd < 0) {
        log_warning("the service manager cannot be told anything: NOTIFY_SOCKET %s: %s", path,
                    strerror(-n->fd));
        return;
    }
    n->watchdog_ns = watchdog / 2;
    n->path = path;
    path = NULL;
}

void
notify_export(const struct notify *n)
{
    char usec[32];
    if (n->path == NULL)
        return;
    setenv("NOTIFY_SOCKET", n->path, 1);
    snprintf(usec, sizeof(usec), "%lld", (long long)(n->watchdog_ns * 2 / 1000));
    if (n->watchdog_ns > 0)
        setenv("WATCHDOG_USEC", usec, 1);
}

void
notify_close(struct notify *n)
{
    if (n->fd >= 0)
        close(fd_take(&n->fd));
    free(n->path);
    n->path = NULL;
}

static void
say(struct notify *n, const char *text)
{
    ssize_t sent;
    do
        sent = send(n->fd, text, strlen(text), MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        log_warning("the service manager cannot be told (%.*s): %s", (int)strcspn(text, "\n"), text,
                    strerror(errno));
}

void
notify_main_pid(struct notify *n, pid_t pid)
{
    char text[48];
    snprintf(text, sizeof(text), "MAINPID=%ld", (long)pid);
    if (n->fd >= 0)
        say(n, text);
}

static void
say_status(struct master *m)
{
    struct notify *n = &m->notify;
    unsigned ready = 0, booting = 0, leaving = 0;
    CHILDREN_EACH(c, m) {
        ready += c->state == CHILD_READY;
        booting += c->state == CHILD_BOOTING;
        leaving += c->state > CHILD_READY;
    }
    char text[sizeof(n->status)];
    int k = snprintf(text, sizeof(text), "STATUS=%s%u of %u workers ready",
                     n->state == NOTIFY_STOPPING    ? "stopping: "
                     : n->state == NOTIFY_RELOADING ? "reloading: "
                                                    : "",
                     ready, m->wanted);
    if (booting > 0)
        k += snprintf(text + k, sizeof(text) - (size_t)k, ", %u starting", booting);
    if (leaving > 0)
        snprintf(text + k, sizeof(text) - (size_t)k, ", %u leaving", leaving);
    if (strcmp(text, n->status) == 0)
        return;
    memcpy(n->status, text, sizeof(text));
    say(n, text);
}

static void
go_to(struct notify *n, enum notify_state state)
{
    char text[128];
    if (n->state == state)
        return;
    n->state = state;
    switch (state) {
    case NOTIFY_STARTING:
        return;
    case NOTIFY_READY:
        snprintf(text, sizeof(text), "READY=1\nMAINPID=%ld", (long)getpid());
        break;
    case NOTIFY_RELOADING: /* Type=notify-reload wants to know since when */
        snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%lld",
                 (long long)(clock_ns() / 1000));
        break;
    case NOTIFY_STOPPING:
        snprintf(text, sizeof(text), "STOPPING=1");
        break;
    }
    say(n, text);
}

void
notify_reloading(struct master *m)
{
    if (m->notify.fd >= 0)
        go_to(&m->notify, NOTIFY_RELOADING);
}

void
notify_tick(struct master *m, int64_t now_ns)
{
    struct notify *n = &m->notify;
    if (n->fd < 0 || upgrade_is_taking(m) || m->stop.is_handed_over)
        return; /* the other master speaks */
    go_to(n, m->stop.state != STOP_NONE                                           ? NOTIFY_STOPPING
             : !m->was_ready                                                      ? NOTIFY_STARTING
             : m->reload.state != RELOAD_NONE || m->upgrade.state != UPGRADE_NONE ? NOTIFY_RELOADING
                                                                                  : NOTIFY_READY);
    say_status(m);
    if (n->watchdog_ns == 0 || n->alive_at_ns > now_ns)
        return;
    n->alive_at_ns = now_ns + n->watchdog_ns;
    if (pulse_is_there(m, now_ns))
        say(n, "WATCHDOG=1");
    pulse_ask(m);
}

int64_t
notify_next_ns(const struct master *m)
{
    bool is_silent = upgrade_is_taking(m) || m->stop.is_handed_over;
    return m->notify.watchdog_ns > 0 && !is_silent ? m->notify.alive_at_ns : 0;
}
