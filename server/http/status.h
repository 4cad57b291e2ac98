/* status.h: status lines, and the headers that every answer carries. */
#ifndef RINGCORN_HTTP_STATUS_H
#define RINGCORN_HTTP_STATUS_H

#include "http.h"

enum { STATUS_LINE_MAX = 64 };

/* Writes "HTTP/1.1 200 OK\r\n"; out has room for STATUS_LINE_MAX bytes. Returns their number. */
size_t status_line(int status, char *out);

/* "Not Found"; "" for a status without a name. */
struct slice status_phrase(int status);

/* Prepares own.lines and own.headers from the configuration. 0 or -ENOMEM. */
int status_init(struct http_app *app);

/* Makes own.lines tell the present second. */
void status_refresh(struct http_app *app);

#endif
