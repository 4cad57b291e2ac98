/* What /proc tells of a process: of this one, and of one that is gone. */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/proc.h"
#include "tap.h"

static int64_t
cpu_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int
main(void)
{
    struct proc_usage before, after;
    prctl(PR_SET_NAME, "a) R (b");
    CHECK(proc_usage(getpid(), &before) == 0);
    CHECK(before.threads == 1);
    CHECK(before.rss_bytes > 64 * 1024 && before.rss_bytes < (1ull << 30));
    int64_t until = cpu_clock_ns() + 100 * 1000 * 1000;
    while (cpu_clock_ns() < until)
        ;
    CHECK(proc_usage(getpid(), &after) == 0);
    CHECK(after.cpu_ns - before.cpu_ns >= 50 * 1000 * 1000);
    pid_t gone = fork();
    if (gone == 0)
        _exit(0);
    waitpid(gone, NULL, 0);
    int err = proc_usage(gone, &after);
    CHECK(err == -ENOENT || err == -ESRCH);
    return tap_done();
}
