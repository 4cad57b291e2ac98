/* pidfile.c: the file that tells scripts which process is the master. */
#include "pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "conf/conf.h"

/* The pid in the file; 0 when it holds none; -errno when it cannot be read. */
static int
read_pid(const char *path)
{
    char text[32];
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    long pid = strtol(text, NULL, 10);
    return pid > 0 && pid <= 1 << 22 ? (int)pid : 0; /* PID_MAX_LIMIT */
}

static int
write_pid(const char *path)
{
    FD_OWNED int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    if (dprintf(fd, "%d\n", (int)getpid()) < 0)
        return -errno;
    return 0;
}

int
pidfile_check(const char *path, pid_t from)
{
    int pid = path != NULL ? read_pid(path) : 0;
    if (pid > 0 && pid != getpid() && pid != (int)from && (kill(pid, 0) == 0 || errno == EPERM)) {
        log_operator("pid_file %s: process %d, which it names, is running; stop that server, or "
                     "remove the file if it is none",
                     path, pid);
        return -EXIT_CODE_SYSTEM;
    }
    if (pid < 0 && pid != -ENOENT) {
        log_operator("pid_file %s: %s", path, strerror(-pid));
        return -EXIT_CODE_SYSTEM;
    }
    return 0;
}

int
pidfile_write(const char *path, pid_t from)
{
    if (path == NULL)
        return 0;
    if (pidfile_check(path, from) < 0)
        return -EXIT_CODE_SYSTEM;
    MEM_OWNED char *fresh = NULL;
    if (asprintf(&fresh, "%s.%d", path, (int)getpid()) < 0) {
        fresh = NULL;
        log_operator("pid_file %s: out of memory", path);
        return -EXIT_CODE_SYSTEM;
    }
    (void)unlink(fresh); /* of an earlier process with our pid */
    int err = write_pid(fresh);
    if (err == 0 && rename(fresh, path) < 0)
        err = -errno;
    if (err < 0) {
        (void)unlink(fresh);
        log_operator("pid_file: cannot write %s: %s", path, strerror(-err));
        return -EXIT_CODE_SYSTEM;
    }
    return 0;
}

void
pidfile_remove(const char *path)
{
    if (path != NULL && read_pid(path) == getpid())
        (void)unlink(path);
}
