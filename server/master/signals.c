/* signals.c: which signal means what. They are blocked and read from a descriptor, so no handler
 * ever runs in the master, and what they ask for is done by the loop, between other events. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

static const int ours[] = {
    SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD,
};

int
signals_open(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(ours); i++)
        sigaddset(&set, ours[i]);
    /* Whoever started us may have ignored it (nohup, a shell's background); then the kernel
     * would bury workers by itself. */
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static void
do_nothing(int signo)
{
    (void)signo;
}

void
signals_reset(void)
{
    for (int signo = 1; signo < NSIG; signo++)
        if (signo != SIGKILL && signo != SIGSTOP)
            (void)signal(signo, SIG_DFL); /* refused for the two that are the C library's */
    /* These are the master's; a worker that gets them with the whole group (a terminal that
     * hangs up, pkill -HUP) must not die of them. A handler, not SIG_IGN: what the application
     * executes gets the default back. */
    struct sigaction action = { .sa_handler = do_nothing, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTTIN, &action, NULL);
    sigaction(SIGTTOU, &action, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void
reopen_logs(struct master *m, const char *who)
{
    if (logs_open(&m->logs, m->now.conf) < 0)
        return;
    log_info("%s: log files reopened", who);
    CHILDREN_EACH(c, m) {
        if (c->control < 0)
            continue;
        if (m->now.conf->log_file != NULL)
            (void)control_send(c->control, CONTROL_REOPEN, STDERR_FILENO, STDERR_FILENO);
        if (c->access_fd > STDERR_FILENO && m->logs.access_fd > STDERR_FILENO)
            (void)control_send(c->control, CONTROL_REOPEN, c->access_fd, m->logs.access_fd);
    }
    PRELOADS_EACH(p, m) {
        if (p->control >= 0 && m->now.conf->log_file != NULL)
            (void)control_send(p->control, CONTROL_REOPEN, STDERR_FILENO, STDERR_FILENO);
        if (p->control >= 0 && p->access_fd > STDERR_FILENO && m->logs.access_fd > STDERR_FILENO)
            (void)control_send(p->control, CONTROL_REOPEN, p->access_fd, m->logs.access_fd);
    }
}

void
signals_read(struct master *m)
{
    struct signalfd_siginfo info;
    while (read(m->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        int signo = (int)info.ssi_signo;
        switch (signo) {
        case SIGTERM:
        case SIGINT:
        case SIGQUIT:
            stop_request(m, signo, EXIT_CODE_OK);
            break;
        case SIGHUP:
            reload_request(m, "SIGHUP");
            break;
        case SIGTTIN:
            slots_more(m);
            break;
        case SIGTTOU:
            slots_less(m);
            break;
        case SIGUSR1:
            reopen_logs(m, "SIGUSR1");
            break;
        case SIGWINCH:
            slots_rest(m);
            break;
        case SIGUSR2:
            upgrade_request(m);
            break;
        case SIGCHLD:
        default: /* only those that we blocked arrive here */
            children_reap(m);
            break;
        }
    }
}
