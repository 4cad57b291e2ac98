/* proc.h: what /proc tells of a process. Linux; any thread. */
#ifndef RINGCORN_BASE_PROC_H
#define RINGCORN_BASE_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct proc_usage {
    uint64_t rss_bytes; /* resident, shared pages included */
    int64_t cpu_ns; /* of all its threads, in user mode and in the kernel; a resolution of 10 ms */
    unsigned threads;
};

/* Returns 0, or -errno with *out untouched (-ESRCH, -ENOENT: it is gone). */
int proc_usage(pid_t pid, struct proc_usage *out);

#endif
