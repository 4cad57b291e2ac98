/* ctl.h: ringcornctl, the program by another name: what an operator asks of a running server, or of a configuration.
 *
 *   ctl.c      the command line
 *   ask.c      one exchange with the server over control.socket (master/ctl.h has the protocol)
 *   table.c    JSON as tables for people
 *
 * One thread, no Python; errors are printed by log_operator(). */
#ifndef RINGCORN_CTL_H
#define RINGCORN_CTL_H

#include <stdio.h>

#include "base/buf.h"
#include "conf/json_doc.h"

/* Runs ringcornctl. Returns the exit code: of enum exit_code; a command that the server refuses is EXIT_CODE_SYSTEM. */
int ctl_main(int argc, char **argv);

/* Returns a connected descriptor, or -1 after saying why. */
int ctl_connect(const char *path);
/* Sends command with arguments (JSON, an object) and reads the answer, which stays in doc and in line. Returns 0 and *result; or -1 after saying why. */
int ctl_exchange(int fd, const char *command, const char *arguments, struct buf *line,
                 struct json_doc *doc, struct json_ref *result);

/* An array of objects as a table, an object as lines of "name: value"; what is nested comes below, indented. */
void ctl_print(struct json_ref value, FILE *out);

#endif
