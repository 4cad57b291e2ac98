/* signals.h: signals of a worker process. Private to worker/. */
#ifndef RINGCORN_WORKER_SIGNALS_H
#define RINGCORN_WORKER_SIGNALS_H

#include <stdbool.h>

#include "io/io.h"

struct asgi;
struct exchanges;

/* Before Python starts: from then on faulthandler has WORKER_STACKS_SIGNAL. */
void signals_install(void);

/* What the handlers wake and report; all stay the caller's. NULLs before one of them goes. The loop's thread. */
void signals_attach(struct io *io, const struct asgi *asgi, const struct exchanges *exchanges);

/* Whether SIGTERM has come since it was last taken. */
bool signals_have_term(void);
bool signals_take_term(void);

#endif
