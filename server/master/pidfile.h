/* pidfile.h: the file that tells scripts which process is the master. */
#ifndef RINGCORN_MASTER_PIDFILE_H
#define RINGCORN_MASTER_PIDFILE_H

/* Writes our pid, whole or not at all; refuses to replace the pid of another living process.
 * path NULL: nothing to do. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int pidfile_write(const char *path);
/* Removes the file if it still names this process. */
void pidfile_remove(const char *path);

#endif
