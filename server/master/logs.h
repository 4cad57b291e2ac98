/* logs.h: the files that log lines go to.
 *
 * log.file is put in the place of descriptor 2, so that whatever Python and C libraries write to
 * standard error is in it too. The access log has a descriptor of its own (1 when it goes to
 * standard output). The server's own lines are written by a thread of the master (log_drain.h), in
 * a worker only when its master has died. Both numbers stay the same when the files are reopened
 * (SIGUSR1), so a worker needs no more than a dup3(); see CONTROL_REOPEN. */
#ifndef RINGCORN_MASTER_LOGS_H
#define RINGCORN_MASTER_LOGS_H

#include "conf/conf.h"
#include "log_drain.h"

struct logs {
    int access_fd;    /* -1 = no access log */
    int saved_stderr; /* standard error as we were started with, while 2 is a file; otherwise -1 */
    struct log_drain *drain; /* NULL until the files are open */
};

void logs_init(struct logs *l);
void logs_fini(struct logs *l);
/* Whether the files can be opened. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int logs_check(const struct conf *conf);
/* Opens the files (anew) and puts them in place. Returns 0 or -EXIT_CODE_SYSTEM, printed; what
 * was open stays in use then. */
int logs_apply(struct logs *l, const struct conf *conf);
/* Level and form of this process's lines. slot: as for log_set_form(). */
void logs_form(const struct conf *conf, int slot);
/* Both for the master, whose thread writes there from now on. */
int logs_open(struct logs *l, const struct conf *conf);
/* A line for the operator: to standard error, and to the terminal that log.file took its place
 * from. */
void logs_say(const struct logs *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
