/* check.c: --check-config, after the configuration itself was found right: a child that starts Python, imports the application and
 * says what it thinks of it. It listens nowhere and serves nothing; whom it runs as and how long it may take is as for a worker.
 *
 * Runs on:  the only thread, before anything else of the master exists. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "master.h"
#include "net/tls.h"
#include "nofile.h"
#include "privileges.h"
#include "worker/worker.h"

enum { DUMP_MS = 200 }; /* from the signal that asks for stacks to SIGKILL */

static int
run_child(const struct master_args *args, const struct privileges *privileges)
{
    const struct conf *conf = args->conf;
    int err = privileges_drop(privileges);
    if (err < 0) {
        log_operator("cannot become %s: %s", conf->user != NULL ? conf->user : conf->group,
                     strerror(-err));
        return EXIT_CODE_SYSTEM;
    }
    struct worker_args worker = {
        .conf = conf,
        .control = -1,
        .asks = -1,
        .access_fd = -1,
        .exe = args->exe,
        .argc = args->argc,
        .argv = args->argv,
    };
    return worker_check(&worker);
}

/* Whether the process ends in time; 0 = there is no limit. */
static bool
ends_within(pid_t pid, int64_t ms)
{
    FD_OWNED int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0 || ms <= 0)
        return true; /* waitpid() does the waiting */
    struct pollfd p = { .fd = pidfd, .events = POLLIN };
    int64_t end_ns = clock_ns() + ms * NS_PER_MS;
    for (;;) {
        int64_t left_ms = (end_ns - clock_ns() + NS_PER_MS - 1) / NS_PER_MS;
        /* at most a day, as the schema has it */
        int n = left_ms <= 0 ? 0 : poll(&p, 1, (int)left_ms);
        if (n < 0 && errno == EINTR)
            continue;
        return n != 0;
    }
}

int
master_check(const struct master_args *args)
{
    const struct conf *conf = args->conf;
    struct privileges privileges = { 0 };
    struct tls_set *tls = NULL;
    if (conf->tls_cert.n > 0 && tls_load(conf, NULL, log_operator, &tls, NULL) < 0)
        return EXIT_CODE_SYSTEM;
    tls_set_free(tls);
    if (conf->app == NULL)
        return EXIT_CODE_OK;
    if (privileges_find(conf, &privileges) < 0)
        return EXIT_CODE_SYSTEM;
    fflush(NULL); /* what stdio holds would be written twice */
    pid_t pid = fork();
    if (pid == 0) {
        int code = run_child(args, &privileges);
        fflush(NULL);
        _exit(code);
    }
    privileges_fini(&privileges);
    if (pid < 0) {
        log_operator("cannot check the application: fork: %s", strerror(errno));
        return EXIT_CODE_SYSTEM;
    }
    bool is_late = !ends_within(pid, conf->timeout_startup_ms);
    if (is_late) {
        log_operator(
            "the application is not imported after %.1f s (timeouts.startup); its stacks follow",
            (double)conf->timeout_startup_ms / 1000);
        kill(pid, WORKER_STACKS_SIGNAL);
        if (!ends_within(pid, DUMP_MS))
            kill(pid, SIGKILL);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            log_operator("cannot check the application: waitpid: %s", strerror(errno));
            return EXIT_CODE_SYSTEM;
        }
    }
    if (is_late)
        return EXIT_CODE_APP;
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        log_operator("the process that imported the application died of signal %d (%s)",
                     WTERMSIG(status), name != NULL ? name : "real-time");
        return EXIT_CODE_APP;
    }
    return WEXITSTATUS(status);
}

/* nginx keeps an idle connection to a server for 60 s (keepalive_timeout in `upstream`). Whoever closes first does it between
 * requests; the other may be sending one just then, which is lost where it is not safe to repeat. */
static void
explain_keep_alive(const struct conf *conf, FILE *out)
{
    enum { NGINX_MS = 60 * 1000 };
    int64_t ms = conf->timeout_keep_alive_ms;
    if (ms == 0)
        fprintf(out, "ringcorn: keep-alive: without a limit; the proxy closes first\n");
    else if (ms > NGINX_MS)
        fprintf(out,
                "ringcorn: keep-alive: %g s, longer than nginx's 60 s, so the proxy closes first\n",
                (double)ms / 1000);
    else
        fprintf(
            out,
            "ringcorn: warning: keep-alive: %g s is not longer than the 60 s for which nginx keeps "
            "a connection to a server (keepalive_timeout in upstream): it may send a request while "
            "it is being closed, and answer 502; write timeouts.keep_alive: 75s, or less there\n",
            (double)ms / 1000);
}

void
master_explain(const struct conf *conf, FILE *out)
{
    unsigned cpus = conf_cpus();
    fprintf(out, "ringcorn: workers: %u, on %u CPU%s (affinity mask and cgroup)\n", conf->workers,
            cpus, cpus == 1 ? "" : "s");
    nofile_explain(conf, out);
    explain_keep_alive(conf, out);
}
