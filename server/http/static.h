/* static.h: what the files that answer for `static` share, private to http/. */
#ifndef RINGCORN_HTTP_STATIC_H
#define RINGCORN_HTTP_STATIC_H

#include <time.h>

#include "http.h"

/* --- preconditions.c: what a request says about a file that it knows already. Pure functions. --- */

enum { RANGES_MAX = 16 }; /* of one answer; who asks for more gets the whole file */

struct byte_range {
    uint64_t first, n;
};

struct byte_ranges {
    struct byte_range v[RANGES_MAX];
    unsigned n;
};

struct file_facts {
    struct slice etag; /* strong, with its quotes */
    time_t mtime;
    uint64_t size;
};

/* RFC 9110 section 13.2.2: 200, 206 (with *ranges), 304, 412 or 416. */
int preconditions(const struct http_request *req, const struct file_facts *file,
                  struct byte_ranges *ranges);

/* The three forms of RFC 9110 section 5.6.7. */
bool http_date_parse(struct slice s, time_t *out);

enum { CODING_BR = 1, CODING_GZIP = 2 };

/* Which of them the client takes (RFC 9110 section 12.5.3), ored. */
unsigned codings_accepted(const struct http_request *req);

/* --- mime.c --- */

struct mime {
    const char *extension; /* lower case */
    const char *type;      /* as it is sent */
    bool is_text;          /* compresses well, so there may be name.br and name.gz */
};

/* By the name's extension; one that is not known is application/octet-stream. */
const struct mime *mime_of(struct slice name);

/* --- static.c --- */

struct statics;
/* Of app->conf: NULL in app->own.statics where there are none. 0 or -ENOMEM. */
int statics_init(struct http_app *app);
void statics_fini(struct http_app *app);

#endif
