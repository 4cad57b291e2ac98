/* preload.c: the process that imports the application once, and forks the workers of a configuration.
 *
 *   master ──fork──> this process: Python, the application; no loop, no ring, no thread of ours
 *      ^                    │ fork, for each CONTROL_FORK
 *      │                    v
 *      │             one in between, which tells the master the worker's pid and ends
 *      │                    │ fork
 *      └── its child now ── worker
 *
 * The one in between is there so that workers become the master's own children, which it has made itself their reaper for
 * (PR_SET_CHILD_SUBREAPER): it waits for them, sees how they end and what they have used, as if it had forked them. clone(CLONE_PARENT) would do
 * that in one step, but only past the C library, whose locks and thread ids would then be wrong in the child. The pid is sent before the one in
 * between ends, so the master knows a worker before it can be told of its death.
 *
 * Python sees one fork: os.register_at_fork()'s functions run once here, and once in the worker.
 *
 * Runs on:  the main thread, with the GIL. While it waits it has not, so that threads which the import has started go on. */
#include "py/py.h"

#include "worker/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log_ring.h"
#include "metrics/metrics.h"
#include "net/tls.h"
#include "worker/signals.h"

/* What comes with CONTROL_FORK. */
enum { FD_CONTROL, FD_LOG, FD_ASKS };

static char title_before[16];
static int certs_fd = -1; /* what came with the last CONTROL_CERTS */

void
preload_set_title(const struct conf *conf)
{
    char title[16] = "ringcorn:import";
    (void)prctl(PR_GET_NAME, title_before);
    if (conf->name != NULL)
        snprintf(title, sizeof(title), "%.8s:import", conf->name);
    (void)prctl(PR_SET_NAME, title);
}

static void
close_fds(const int *fds)
{
    for (size_t i = 0; i < CONTROL_FDS_MAX; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static void
reopen(int target, int fd)
{
    if (fd >= 0 && dup3(fd, target, target > STDERR_FILENO ? O_CLOEXEC : 0) < 0)
        log_error("a reopened log cannot be taken: %s", strerror(errno));
}

/* The next CONTROL_FORK, or false: no more are wanted, or the master is gone. Without the GIL. */
static bool
await_order(int control, struct control_msg *msg, int *fds)
{
    for (;;) {
        struct pollfd p = { .fd = control, .events = POLLIN };
        if (poll(&p, 1, -1) < 0 && errno != EINTR)
            return false;
        int err = control_recv_fds(control, msg, fds, CONTROL_FDS_MAX);
        if (err == -EAGAIN || err == -EBADMSG)
            continue;
        if (err < 0)
            return false;
        if (msg->kind == CONTROL_FORK && fds[FD_LOG] >= 0)
            return true;
        if (msg->kind == CONTROL_FORK)
            (void)control_send(control, CONTROL_FORKED, -EMFILE, -1);
        if (msg->kind == CONTROL_REOPEN)
            reopen(msg->id, fds[0]);
        if (msg->kind == CONTROL_CERTS && fds[0] >= 0) {
            if (certs_fd >= 0)
                close(certs_fd);
            certs_fd = fd_take(&fds[0]);
        }
        close_fds(fds);
    }
}

/* Files have changed since this configuration was read. Those that the master could use can be used here too. */
static void
take_certs(struct worker_args *mine)
{
    struct tls_files files;
    FD_OWNED int fd = fd_take(&certs_fd);
    int err = fd < 0 ? 0 : tls_files_unpack(fd, &files);
    if (fd < 0 || err < 0) {
        if (err < 0)
            log_error("new certificates cannot be taken: %s; the old ones stay", strerror(-err));
        return;
    }
    struct tls_set *set = tls_set_new(mine->conf, &files, mine->tickets, tls_say_error, false);
    tls_files_free(&files);
    if (set != NULL)
        mine->tls = set;
}

/* The worker's side: what the master would have done for it. */
static void
become_worker(struct worker_args *mine, const struct control_msg *msg, const int *fds)
{
    close(mine->control);
    mine->slot = (unsigned)msg->id;
    mine->control = fds[FD_CONTROL];
    mine->asks = fds[FD_ASKS];
    struct log_ring *ring = log_ring_map(fds[FD_LOG]);
    close(fds[FD_LOG]);
    log_set_slot(msg->id);
    log_ring_free(log_change_ring(ring)); /* NULL: this worker writes by itself */
    struct metrics *area = metrics_area();
    bool is_counted = area != NULL && msg->block >= 0 && msg->block < METRICS_BLOCKS_MAX;
    metrics_begin(area, is_counted ? &area->blocks[msg->block] : NULL);
    (void)prctl(PR_SET_NAME, title_before);
    take_certs(mine);
}

/* Returns true in the worker. */
static bool
fork_one(struct worker_args *mine, const struct control_msg *msg, const int *fds)
{
    PyOS_BeforeFork();
    pid_t between = fork();
    if (between == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            become_worker(mine, msg, fds);
            PyOS_AfterFork_Child();
            return true;
        }
        /* A worker that nobody knows of must not be. */
        if (control_send(mine->control, CONTROL_FORKED, pid > 0 ? (int32_t)pid : -errno, -1) < 0 &&
            pid > 0)
            kill(pid, SIGKILL);
        _exit(0);
    }
    int err = errno, status = 0;
    PyOS_AfterFork_Parent();
    close_fds(fds);
    if (between > 0)
        while (waitpid(between, &status, 0) < 0 && errno == EINTR)
            ;
    /* One that was killed in between may have said nothing. */
    if (between < 0 || WIFSIGNALED(status))
        (void)control_send(mine->control, CONTROL_FORKED, between < 0 ? -err : -ECHILD, -1);
    return false;
}

bool
preload_serve(struct worker_args *mine)
{
    if (control_send(mine->control, CONTROL_READY, 0, -1) < 0)
        return false;
    for (;;) {
        struct control_msg msg;
        int fds[CONTROL_FDS_MAX];
        bool is_order;
        Py_BEGIN_ALLOW_THREADS is_order = await_order(mine->control, &msg, fds);
        Py_END_ALLOW_THREADS if (!is_order) return false;
        if (fork_one(mine, &msg, fds))
            return true;
    }
}
