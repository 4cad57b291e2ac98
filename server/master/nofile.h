/* nofile.h: how many descriptors a worker may have open, and what follows for
 * limits.connections. */
#ifndef RINGCORN_MASTER_NOFILE_H
#define RINGCORN_MASTER_NOFILE_H

#include <stdio.h>

#include "conf/conf.h"

/* Raises the soft limit of descriptors, and lowers conf->limit_connections (with a line in the
 * log) where they do not suffice. */
void nofile_fit(struct conf *conf);
/* For --check-config: a line about what a worker needs and may have; the limits stay as they are. */
void nofile_explain(const struct conf *conf, FILE *out);

#endif
