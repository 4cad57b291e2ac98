/* logs.h: the files that log lines go to.
 *
 * log.file is put in the place of descriptor 2, so that whatever Python and C libraries write to
 * standard error is in it too. The access log has a descriptor of its own (1 when it goes to
 * standard output). Both numbers stay the same when the files are reopened (SIGUSR1), so a
 * worker needs no more than a dup3(); see CONTROL_REOPEN. */
#ifndef RINGCORN_MASTER_LOGS_H
#define RINGCORN_MASTER_LOGS_H

#include "conf/conf.h"

struct logs {
    int access_fd;    /* -1 = no access log */
    int saved_stderr; /* standard error as we were started with, while 2 is a file; otherwise -1 */
};

void logs_init(struct logs *l);
void logs_fini(struct logs *l);
/* Whether the files can be opened. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int logs_check(const struct conf *conf);
/* Opens the files (anew) and puts them in place. Returns 0 or -EXIT_CODE_SYSTEM, printed; what
 * was open stays in use then. */
int logs_apply(struct logs *l, const struct conf *conf);
/* A line for the operator: to standard error, and to the terminal that log.file took its place
 * from. */
void logs_say(const struct logs *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
