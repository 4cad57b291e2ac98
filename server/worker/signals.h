/* signals.h: signals of a worker process. Private to worker/. */
#ifndef RINGCORN_WORKER_SIGNALS_H
#define RINGCORN_WORKER_SIGNALS_H

#include <stdbool.h>
#include <stddef.h>

#include "io/io.h"

struct asgi;
struct exchanges;

enum { NUMBER_SIZE = 24 };

/* Writes a number without a final NUL. to: NUMBER_SIZE bytes. Returns its length. Async-signal-safe, as the next one is. */
size_t signals_put_number(char *to, long value);
/* A line for each request in hand. */
void signals_report_in_hand(void);

/* --- crash.c: before Python starts; and again when it has, with a stack too small for us */
void crash_install(void);
void crash_use_stack(void);
/* Which worker this process is; before it, and in children of the application's, a crash is told of by Python alone. */
void crash_own(unsigned slot);

/* Before Python starts: from then on faulthandler has WORKER_STACKS_SIGNAL. */
void signals_install(void);
/* The same in two steps, for the process that forks workers, which SIGTERM ends, and in a worker of its. What the application has put in their
 * place meanwhile stays. */
void signals_install_early(void);
void signals_install_late(void);

/* What the handlers wake and report; all stay the caller's. NULLs before one of them goes. The loop's thread. */
void signals_attach(struct io *io, const struct asgi *asgi, const struct exchanges *exchanges);

/* Whether SIGTERM has come since it was last taken. */
bool signals_have_term(void);
bool signals_take_term(void);

#endif
