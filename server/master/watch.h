/* watch.h: the application's files, for reload.enabled. The master's thread only. */
#ifndef RINGCORN_MASTER_WATCH_H
#define RINGCORN_MASTER_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"

struct watch;

/* Watches what conf says, which outlives it. NULL, logged, when nothing can be watched; all the others take that for nothing. */
struct watch *watch_open(const struct conf *conf);
/* In a forked child too. */
void watch_close(struct watch *w);
/* To be polled for POLLIN, or -1. */
int watch_fd(const struct watch *w);
/* When watch_tick() is due without an event; 0 = not. */
int64_t watch_next_ns(const struct watch *w);
/* Reads what happened. Returns true once for each burst of changes, reload.delay after its last. */
bool watch_tick(struct watch *w, int64_t now_ns);

#endif
