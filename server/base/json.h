/* json.h: writes JSON (RFC 8259) into a buffer, without white space between the parts.
 *
 *     BUF_OWNED struct buf b = { 0 };
 *     struct json j = json_into(&b);
 *     json_begin(&j, '{');
 *     json_key(&j, "workers"), json_int(&j, 4);
 *     json_key(&j, "name"), json_text(&j, name);
 *     json_end(&j, '}');
 *     if (j.is_lost) ...        no memory: what is in the buffer is not JSON
 *
 * Commas come by themselves. Whether the parts make a whole (a key before each value of an object, an end for each begin) is the
 * caller's. To read JSON there is libyaml (conf/yaml.c): it is a subset of YAML. */
#ifndef RINGCORN_BASE_JSON_H
#define RINGCORN_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "slice.h"

struct json {
    struct buf *out; /* the caller's */
    size_t start;    /* of what is ours in it */
    bool is_lost;    /* something found no memory; stays so */
};

static inline struct json
json_into(struct buf *out)
{
    return (struct json){ .out = out, .start = out->n };
}

/* open: '{' or '['; close: '}' or ']'. */
void json_begin(struct json *j, char open);
void json_end(struct json *j, char close);
/* Of the value that comes next; ASCII without quotes and backslashes. */
void json_key(struct json *j, const char *name);

/* Any bytes: what is no UTF-8 becomes U+FFFD, byte by byte, what would end a line or a string is escaped. */
void json_text(struct json *j, struct slice text);
/* The same without quotes, into memory: for lines whose form is fixed. to: room for JSON_ESCAPED_MAX times text.n. Returns where it ends. */
enum { JSON_ESCAPED_MAX = 6 }; /* bytes that one becomes at most */
char *json_escape(char *to, struct slice text);
void json_string(struct json *j, const char *text); /* NULL: null */
void json_int(struct json *j, int64_t n);
/* six digits behind the point; what is no number becomes null */
void json_real(struct json *j, double x);
void json_bool(struct json *j, bool is);
void json_null(struct json *j);
/* A value that is JSON already. */
void json_raw(struct json *j, struct slice json);

#endif
