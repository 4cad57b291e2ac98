/* upgrade.c: SIGUSR2: another program (a new version, the same one over other libraries, another Python) takes the place of this
 * one while both hold the same sockets.
 *
 *   this master                                  the next one, a child that executes the program
 *   TRYING: describes what it has, forks    ->   TAKING: reads the description, boots its workers as at a start
 *                                           <-   all its workers accept: READY. OFFERED
 *   tells the service manager, writes
 *   PID_FILE.oldbin, closes its sockets     ->   GO: the sockets, their files and the pid file are its own
 *   drains its workers, and ends
 *
 * Until GO nothing has changed for this one. If the next one ends, or says nothing for too long, that is logged and all goes on as
 * before. If this one dies before GO, the next one sees the end of the channel and goes on alone.
 *
 * The program is looked up by the path it was started by, in the folder it was started in, so that links that have changed since
 * (/opt/app/current) are followed anew. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "pidfile.h"
#include "state.h"

enum {
    READY = 'r',
    GO = 'g',
    STARTUPS = 2, /* the first worker, then the others */
    /* for everything but the workers; and from asking it to end to killing it */
    SPARE_MS = 10 * 1000,
    CANNOT_EXECUTE = 126,
};

/* Where this master's pid is found while it drains. New, or NULL. */
static char *
old_pid_file(const struct master *m)
{
    const char *path = m->now.conf->pid_file;
    char *old = NULL;
    return path != NULL && asprintf(&old, "%s.oldbin", path) > 0 ? old : NULL;
}

/* --- at the start --------------------------------------------------------------------------------- */

static bool
is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int
upgrade_open(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    const char *name = m->args->argc > 0 ? m->args->argv[0] : "", *folder = getenv("PWD");
    bool is_path = strchr(name, '/') != NULL && is_same_file(name, m->args->exe);
    u->program = strdup(is_path ? name : m->args->exe);
    u->folder =
        folder != NULL && folder[0] == '/' && is_same_file(folder, ".") ? strdup(folder) : NULL;
    u->channel = -1;
    int taken = handover_read(&u->handover);
    if (taken <= 0)
        return taken;
    u->state = UPGRADE_TAKING;
    u->channel = u->handover.channel;
    u->begun_ns = clock_ns();
    sockets_adopt(&m->sockets, &u->handover.app);
    (void)prctl(PR_SET_PDEATHSIG, SIGCHLD); /* upgrade_is_beside() is another then */
    return 0;
}

bool
upgrade_is_beside(const struct master *m)
{
    return m->upgrade.handover.from > 0 && getppid() == m->upgrade.handover.from;
}

unsigned
upgrade_wanted(const struct master *m)
{
    const struct handover *h = &m->upgrade.handover;
    unsigned workers = m->now.conf->workers;
    return workers == h->workers && h->wanted > 0 ? h->wanted : workers;
}

void
upgrade_fini(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    MEM_OWNED char *old = m->stop.is_handed_over ? old_pid_file(m) : NULL;
    pidfile_remove(old);
    if (u->channel >= 0)
        close(fd_take(&u->channel));
    handover_fini(&u->handover);
    free(u->program);
    free(u->folder);
}

/* --- this master ---------------------------------------------------------------------------------- */

void
upgrade_request(struct master *m)
{
    const char *why =
        getpid() == 1
            ? "process 1 ends its container when it ends; start another container, or send SIGHUP "
              "for new code"
        : m->stop.state != STOP_NONE         ? "the server stops"
        : m->upgrade.state == UPGRADE_TRYING ? "the next program is on its way already"
        : m->upgrade.state != UPGRADE_NONE   ? "this program is about to take over itself"
        : !m->was_ready                      ? "no worker has been ready yet"
                                             : NULL;
    if (why != NULL)
        log_warning("SIGUSR2: not now: %s", why);
    else
        m->upgrade.is_wanted = true; /* upgrade_tick() begins */
}

/* The child's side: everything that the next program must not have is close-on-exec. */
static _Noreturn void
execute(struct master *m, int description, int channel, pid_t from)
{
    struct upgrade *u = &m->upgrade;
    char text[64];
    if (m->logs.saved_stderr >= 0)
        dup2(m->logs.saved_stderr, STDERR_FILENO);
    signals_reset();
    sockets_pass(&m->sockets);
    health_pass(m->health);
    ctl_pass(m->ctl);
    notify_export(&m->notify);
    (void)fcntl(m->metrics_fd, F_SETFD, 0);
    (void)fcntl(description, F_SETFD, 0);
    (void)fcntl(channel, F_SETFD, 0);
    snprintf(text, sizeof(text), "%d:%d:%d:%d", description, channel, (int)getpid(), (int)from);
    if (setenv(HANDOVER_VARIABLE, text, 1) == 0 && (u->folder == NULL || chdir(u->folder) == 0))
        execv(u->program, m->args->argv);
    log_operator("cannot execute %s in %s: %s", u->program, u->folder != NULL ? u->folder : ".",
                 strerror(errno));
    _exit(CANNOT_EXECUTE);
}

static void
begin(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    int ends[2];
    u->is_wanted = false;
    FD_OWNED int description = handover_write(m);
    if (description < 0) {
        log_error("SIGUSR2: nothing is handed over: %s", strerror(-description));
        return;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        log_error("SIGUSR2: nothing is handed over: %s", strerror(errno));
        return;
    }
    log_info("SIGUSR2: starting %s; the workers here serve until its workers do", u->program);
    fflush(NULL);
    log_drain_hold(m->logs.drain);
    pid_t self = getpid(), pid = fork();
    if (pid == 0) {
        close(ends[0]);
        execute(m, description, ends[1], self);
    }
    int err = errno;
    log_drain_release(m->logs.drain);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        log_error("SIGUSR2: nothing is handed over: fork: %s", strerror(err));
        return;
    }
    u->state = UPGRADE_TRYING;
    u->pid = pid;
    u->channel = ends[0];
    u->begun_ns = clock_ns();
    u->is_told_to_end = false;
    int64_t startup_ms = m->now.conf->timeout_startup_ms;
    u->deadline_ns =
        startup_ms > 0 ? u->begun_ns + (STARTUPS * startup_ms + SPARE_MS) * NS_PER_MS : 0;
}

static void
go_on(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    u->state = UPGRADE_NONE;
    u->deadline_ns = 0;
    if (u->channel >= 0)
        close(fd_take(&u->channel));
}

void
upgrade_reaped(struct master *m, pid_t pid, int status)
{
    struct upgrade *u = &m->upgrade;
    if (pid != u->pid)
        return;
    u->pid = 0;
    if (u->state != UPGRADE_TRYING)
        return;
    go_on(m);
    events_note(m, EVENT_RELOAD_FAILED, NULL, EVENT_DETAILS({ "asked_by", .text = "SIGUSR2" }),
                "SIGUSR2: the next program (pid %d) did not come up, the log says why; this one "
                "goes on",
                (int)pid);
    if (WIFSIGNALED(status))
        log_error(
            "SIGUSR2: the next program (pid %d) was ended by signal %d (%s); this one goes on",
            (int)pid, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        log_error("SIGUSR2: the next program (pid %d) did not come up (exit code %d, its error is "
                  "%s); this one goes on",
                  (int)pid, WEXITSTATUS(status),
                  m->logs.saved_stderr >= 0 ? "there, or on standard error" : "above");
}

/* Its workers accept. */
static void
hand_over(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    MEM_OWNED char *old = old_pid_file(m);
    const char go = GO;
    /* First, as the manager hears the next one only when it knows it. */
    notify_main_pid(&m->notify, u->pid);
    (void)pidfile_write(old, 0);
    sockets_lend(&m->sockets);
    health_lend(m->health);
    ctl_lend(m->ctl);
    if (send(u->channel, &go, 1, MSG_NOSIGNAL) != 1)
        log_warning("process %d cannot be told that it may go on: %s", (int)u->pid,
                    strerror(errno));
    log_info("process %d has taken over after %.2f s; the workers here finish what they have",
             (int)u->pid, (double)(clock_ns() - u->begun_ns) / NS_PER_S);
    go_on(m);
    stop_hand_over(m);
}

void
upgrade_abort(struct master *m, int by)
{
    struct upgrade *u = &m->upgrade;
    u->is_wanted = false;
    if (u->state != UPGRADE_TRYING)
        return;
    if (by != 0 && u->pid > 0)
        kill(u->pid, by);
    else { /* it may do better: it goes on when this one has ended */
        sockets_lend(&m->sockets);
        health_lend(m->health);
        ctl_lend(m->ctl);
    }
    go_on(m);
}

/* --- the next one --------------------------------------------------------------------------------- */

static bool
is_serving(const struct master *m)
{
    for (unsigned i = 0; i < m->wanted; i++)
        if (m->slots[i].current == NULL || !child_is_accepting(m->slots[i].current))
            return false;
    return true;
}

/* Everything that the other master had is this one's from here on. */
static void
own(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    close(fd_take(&u->channel));
    u->state = UPGRADE_NONE;
    sockets_own(&m->sockets, m->now.conf);
    (void)pidfile_write(m->now.conf->pid_file, u->handover.from);
    (void)health_apply(m);
    (void)ctl_apply(m); /* all printed */
    handover_fini(&u->handover);
    metrics_sweep(m->metrics);
    log_info("took over from process %d", (int)u->handover.from);
}

/* --- both ----------------------------------------------------------------------------------------- */

void
upgrade_read(struct master *m)
{
    struct upgrade *u = &m->upgrade;
    char word;
    ssize_t n = recv(u->channel, &word, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool is_end = n <= 0;
    if (u->state == UPGRADE_TRYING && !is_end && word == READY) {
        hand_over(m);
    } else if (u->state == UPGRADE_TRYING && is_end) {
        close(fd_take(&u->channel)); /* its death tells more */
    } else if (u->state == UPGRADE_OFFERED || is_end) {
        if (is_end)
            log_warning("process %d, whose place this one takes, has ended meanwhile",
                        (int)u->handover.from);
        own(m);
    }
}

void
upgrade_tick(struct master *m, int64_t now_ns)
{
    struct upgrade *u = &m->upgrade;
    if (m->stop.state != STOP_NONE)
        return;
    if (u->is_wanted && u->state == UPGRADE_NONE && m->reload.state == RELOAD_NONE &&
        list_is_empty(&m->sockets.leaving))
        begin(m);
    if (u->state == UPGRADE_TAKING && is_serving(m)) {
        const char ready = READY;
        u->state = UPGRADE_OFFERED;
        /* the end of the channel tells what is wrong */
        (void)send(u->channel, &ready, 1, MSG_NOSIGNAL);
    }
    if (u->deadline_ns == 0 || u->deadline_ns > now_ns)
        return;
    if (!u->is_told_to_end)
        log_error("SIGUSR2: the next program (pid %d) is not ready after %.0f s: it is ended",
                  (int)u->pid, (double)(now_ns - u->begun_ns) / NS_PER_S);
    kill(u->pid, u->is_told_to_end ? SIGKILL : SIGTERM);
    u->is_told_to_end = true;
    u->deadline_ns = now_ns + SPARE_MS * NS_PER_MS;
}

int64_t
upgrade_next_ns(const struct master *m)
{
    return m->upgrade.deadline_ns;
}
