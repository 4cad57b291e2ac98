/* preload.h: the process that imports the application for its workers. Private to worker/. */
#ifndef RINGCORN_WORKER_PRELOAD_H
#define RINGCORN_WORKER_PRELOAD_H

#include <stdbool.h>

#include "worker/worker.h"

/* The name of this process, as ps -o comm shows it; workers get the one that it had. */
void preload_set_title(const struct conf *conf);
/* The application is imported: says so, then forks whom the master asks for. False: no more are wanted. True: in a worker, with what is the worker's own
 * in *mine, which came in as this process's. GIL held, the main thread. */
bool preload_serve(struct worker_args *mine);

#endif
