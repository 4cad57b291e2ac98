/* pidfile.h: the file that tells scripts which process is the master. */
#ifndef RINGCORN_MASTER_PIDFILE_H
#define RINGCORN_MASTER_PIDFILE_H

#include <sys/types.h>

/* Writes our pid, whole or not at all; refuses to replace the pid of another living process but from (0 = none).
 * path NULL: nothing to do. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int pidfile_write(const char *path, pid_t from);
/* Only whether that would be refused. */
int pidfile_check(const char *path, pid_t from);
/* Removes the file if it still names this process. */
void pidfile_remove(const char *path);

#endif
