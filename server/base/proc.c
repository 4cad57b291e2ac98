/* proc.c: what /proc tells of a process (proc_pid_stat(5)). */
#include "proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "owned.h"

int
proc_usage(pid_t pid, struct proc_usage *out)
{
    char path[32], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    /* The name, in parentheses, may hold anything, also a parenthesis. */
    const char *rest = strrchr(text, ')');
    unsigned long long user, kernel, pages;
    unsigned threads;
    if (rest == NULL || sscanf(rest + 1,
                               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d "
                               "%*d %u %*d %*u %*u %llu",
                               &user, &kernel, &threads, &pages) != 4)
        return -EBADMSG;
    long hz = sysconf(_SC_CLK_TCK);
    out->cpu_ns = (int64_t)((user + kernel) * (uint64_t)(NS_PER_S / (hz > 0 ? hz : 100)));
    out->rss_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    out->threads = threads;
    return 0;
}
