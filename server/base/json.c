/* json.c: a JSON writer. It keeps no stack: whether a comma is due shows in the byte before. */
#include "json.h"

#include <math.h>
#include <string.h>

#include "utf8.h"

static void
put(struct json *j, const char *p, size_t n)
{
    if (j->is_lost || buf_append(j->out, p, n) < 0)
        j->is_lost = true;
}

static void
before_value(struct json *j)
{
    if (j->is_lost || j->out->n == j->start)
        return;
    char last = j->out->p[j->out->n - 1];
    if (last != '{' && last != '[' && last != ':')
        put(j, ",", 1);
}

void
json_begin(struct json *j, char open)
{
    before_value(j);
    put(j, &open, 1);
}

void
json_end(struct json *j, char close)
{
    put(j, &close, 1);
}

void
json_key(struct json *j, const char *name)
{
    before_value(j);
    put(j, "\"", 1);
    put(j, name, strlen(name));
    put(j, "\":", 2);
}

/* What the byte at p becomes that does not stay as it is. Returns how many bytes of out it is. */
static size_t
escape(unsigned char c, char out[JSON_ESCAPED_MAX])
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[][2] = {
        { '"', '"' }, { '\\', '\\' }, { '\n', 'n' }, { '\r', 'r' }, { '\t', 't' }
    };
    out[0] = '\\';
    for (size_t i = 0; i < sizeof(letters) / sizeof(letters[0]); i++)
        if (letters[i][0] == (char)c) {
            out[1] = letters[i][1];
            return 2;
        }
    if (c >= 0x80) {
        memcpy(out, "\\ufffd", JSON_ESCAPED_MAX);
        return JSON_ESCAPED_MAX;
    }
    memcpy(out, "\\u00", 4);
    out[4] = hex[c >> 4];
    out[5] = hex[c & 15];
    return JSON_ESCAPED_MAX;
}

/* How many bytes from p on stay as they are. */
static size_t
plain(const unsigned char *p, const unsigned char *end)
{
    const unsigned char *from = p;
    while (p < end && *p >= 0x20 && *p != '"' && *p != '\\' && *p != 0x7f) {
        size_t n = *p < 0x80 ? 1 : utf8_size(p, (size_t)(end - p));
        if (n == 0)
            break;
        p += n;
    }
    return (size_t)(p - from);
}

void
json_text(struct json *j, struct slice text)
{
    before_value(j);
    put(j, "\"", 1);
    const unsigned char *p = (const unsigned char *)text.p, *end = p + text.n;
    while (p < end) {
        size_t n = plain(p, end);
        put(j, (const char *)p, n);
        p += n;
        if (p == end)
            break;
        char escaped[JSON_ESCAPED_MAX];
        put(j, escaped, escape(*p++, escaped));
    }
    put(j, "\"", 1);
}

char *
json_escape(char *to, struct slice text)
{
    const unsigned char *p = (const unsigned char *)text.p, *end = p + text.n;
    while (p < end) {
        size_t n = plain(p, end);
        memcpy(to, p, n);
        to += n;
        p += n;
        if (p < end)
            to += escape(*p++, to);
    }
    return to;
}

void
json_string(struct json *j, const char *text)
{
    if (text == NULL)
        json_null(j);
    else
        json_text(j, slice_of(text));
}

void
json_int(struct json *j, int64_t n)
{
    before_value(j);
    if (j->is_lost || buf_printf(j->out, "%lld", (long long)n) < 0)
        j->is_lost = true;
}

void
json_real(struct json *j, double x)
{
    if (!isfinite(x)) {
        json_null(j);
        return;
    }
    before_value(j);
    if (j->is_lost || buf_printf(j->out, "%.6f", x) < 0)
        j->is_lost = true;
}

void
json_bool(struct json *j, bool is)
{
    json_raw(j, is ? SLICE("true") : SLICE("false"));
}

void
json_null(struct json *j)
{
    json_raw(j, SLICE("null"));
}

void
json_raw(struct json *j, struct slice json)
{
    before_value(j);
    put(j, json.p, json.n);
}
