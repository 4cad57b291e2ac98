/* preconditions.c: what a request says about a file that its client knows already: If-Match and its like (RFC 9110 section 13), Range
 * (section 14), Accept-Encoding (section 12.5.3). Pure functions of the request's headers; a header that cannot be read counts as one that is
 * not there, as the RFC wants it. */
#include "chars.h"
#include "h1.h"
#include "static.h"

/* The only header of the name, of which there must be one; n 0 otherwise. */
static struct slice
header(const struct http_request *req, const char *name)
{
    struct slice found = { NULL, 0 };
    for (unsigned i = 0; i < req->headers_n; i++) {
        if (!slice_is(req->headers[i].name, name))
            continue;
        if (found.p != NULL)
            return (struct slice){ NULL, 0 };
        found = req->headers[i].value;
    }
    return found;
}

/* --- entity tags ------------------------------------------------------------------------------------------------------ */

/* Whether the tag is in a list. A comma may be part of a tag. */
static bool
list_has_tag(struct slice list, struct slice tag, bool is_weak_ok)
{
    const char *p = list.p, *end = list.p + list.n;
    while (p < end) {
        if (*p == ' ' || *p == '\t' || *p == ',') {
            p++;
            continue;
        }
        bool is_weak = end - p > 2 && p[0] == 'W' && p[1] == '/';
        p += is_weak ? 2 : 0;
        const char *close = *p == '"' ? memchr(p + 1, '"', (size_t)(end - p - 1)) : NULL;
        if (close == NULL)
            return false;
        size_t n = (size_t)(close + 1 - p);
        if (n == tag.n && memcmp(p, tag.p, n) == 0 && (is_weak_ok || !is_weak))
            return true;
        p = close + 1;
    }
    return false;
}

/* Over all headers of the name: is there one, and does one of them name the file? */
static bool
tags_match(const struct http_request *req, const char *name, struct slice tag, bool is_weak_ok,
           bool *is_there)
{
    bool is_match = false;
    *is_there = false;
    for (unsigned i = 0; i < req->headers_n; i++) {
        if (!slice_is(req->headers[i].name, name))
            continue;
        struct slice value = slice_trim(req->headers[i].value);
        *is_there = true;
        is_match |= slice_is(value, "*") || list_has_tag(value, tag, is_weak_ok);
    }
    return is_match;
}

/* --- dates ------------------------------------------------------------------------------------------------------------ */

/* The number in the next n digits. -1: they are none. */
static int
digits(const char *p, size_t n)
{
    int value = 0;
    for (size_t i = 0; i < n; i++) {
        if (!char_is(p[i], CHAR_DIGIT))
            return -1;
        value = value * 10 + (p[i] - '0');
    }
    return value;
}

static int
month(const char *p)
{
    static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    for (int i = 0; i < 12; i++)
        if (memcmp(p, names + 3 * i, 3) == 0)
            return i;
    return -1;
}

static bool
date_make(int year, int mon, int day, const char *hms, time_t *out)
{
    int hour = digits(hms, 2), minute = digits(hms + 3, 2), second = digits(hms + 6, 2);
    if (year < 1900 || mon < 0 || day < 1 || day > 31 || hour < 0 || hour > 23 || minute < 0 ||
        minute > 59 || second < 0 || second > 60 || hms[2] != ':' || hms[5] != ':')
        return false;
    struct tm tm = { .tm_year = year - 1900,
                     .tm_mon = mon,
                     .tm_mday = day,
                     .tm_hour = hour,
                     .tm_min = minute,
                     .tm_sec = second };
    *out = timegm(&tm);
    return true;
}

bool
http_date_parse(struct slice s, time_t *out)
{
    const char *p = s.p;
    if (s.n == 29 && p[3] == ',' &&
        memcmp(p + 25, " GMT", 4) == 0) /* Sun, 06 Nov 1994 08:49:37 GMT */
        return p[4] == ' ' && p[7] == ' ' && p[11] == ' ' && p[16] == ' ' &&
               date_make(digits(p + 12, 4), month(p + 8), digits(p + 5, 2), p + 17, out);
    if (s.n == 24 && p[3] == ' ') { /* Sun Nov  6 08:49:37 1994 */
        int day = p[8] == ' ' ? digits(p + 9, 1) : digits(p + 8, 2);
        return p[7] == ' ' && p[10] == ' ' && p[19] == ' ' &&
               date_make(digits(p + 20, 4), month(p + 4), day, p + 11, out);
    }
    const char *comma = memchr(p, ',', s.n); /* Sunday, 06-Nov-94 08:49:37 GMT */
    if (comma == NULL || (size_t)(comma - p) + 24 != s.n || memcmp(comma + 20, " GMT", 4) != 0 ||
        comma[1] != ' ' || comma[4] != '-' || comma[8] != '-' || comma[11] != ' ')
        return false;
    int year = digits(comma + 9, 2);
    if (year < 0)
        return false;
    return date_make(year + (year < 70 ? 2000 : 1900), month(comma + 5), digits(comma + 2, 2),
                     comma + 12, out);
}

static bool
header_date(const struct http_request *req, const char *name, time_t *out)
{
    struct slice value = slice_trim(header(req, name));
    return value.n > 0 && http_date_parse(value, out);
}

/* --- ranges ----------------------------------------------------------------------------------------------------------- */

/* Takes digits off the front; what does not fit is UINT64_MAX. False: there are none. */
static bool
number_next(struct slice *s, uint64_t *out)
{
    uint64_t n = 0;
    size_t i = 0;
    for (; i < s->n && char_is(s->p[i], CHAR_DIGIT); i++)
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(s->p[i] - '0'), &n))
            n = UINT64_MAX / 10 + 1; /* stays too large */
    *s = (struct slice){ s->p + i, s->n - i };
    *out = n;
    return i > 0;
}

enum range_kind { RANGE_WRONG, RANGE_OUTSIDE, RANGE_INSIDE };

/* "0-499", "500-", "-500" */
static enum range_kind
range_parse(struct slice s, uint64_t size, struct byte_range *out)
{
    uint64_t first = 0, last = 0;
    bool has_first = number_next(&s, &first);
    if (s.n == 0 || s.p[0] != '-')
        return RANGE_WRONG;
    s = (struct slice){ s.p + 1, s.n - 1 };
    bool has_last = number_next(&s, &last);
    if (s.n > 0 || (!has_first && !has_last) || (has_first && has_last && last < first))
        return RANGE_WRONG;
    if (!has_first) { /* the last so many bytes */
        if (last == 0 || size == 0)
            return RANGE_OUTSIDE;
        out->n = last < size ? last : size;
        out->first = size - out->n;
        return RANGE_INSIDE;
    }
    if (first >= size)
        return RANGE_OUTSIDE;
    if (!has_last || last >= size)
        last = size - 1;
    *out = (struct byte_range){ first, last - first + 1 };
    return RANGE_INSIDE;
}

/* 200 (there are none, or they are not to be served), 206 or 416. */
static int
ranges_parse(struct slice value, uint64_t size, struct byte_ranges *out)
{
    static const char unit[] = "bytes=";
    struct slice one;
    uint64_t sum = 0;
    unsigned specs = 0;
    out->n = 0;
    if (value.n < sizeof(unit) || strncasecmp(value.p, unit, sizeof(unit) - 1) != 0)
        return 200;
    value = (struct slice){ value.p + sizeof(unit) - 1, value.n - (sizeof(unit) - 1) };
    while (h1_list_next(&value, &one)) {
        if (one.n == 0)
            continue;
        struct byte_range range;
        enum range_kind kind = range_parse(one, size, &range);
        if (kind == RANGE_WRONG || ++specs > RANGES_MAX)
            return 200;
        if (kind == RANGE_INSIDE) {
            out->v[out->n++] = range;
            sum += range.n;
        }
    }
    if (specs == 0)
        return 200;
    if (out->n == 0)
        return 416;
    /* More than the whole file, in pieces that overlap: section 14.2 lets it be sent instead. */
    return out->n > 1 && sum > size ? 200 : 206;
}

static bool
if_range_holds(const struct http_request *req, const struct file_facts *file)
{
    struct slice value = slice_trim(header(req, "if-range"));
    time_t when;
    if (value.n == 0)
        return header(req, "if-range").p == NULL;
    if (value.p[0] == '"')
        return value.n == file->etag.n && memcmp(value.p, file->etag.p, value.n) == 0;
    return http_date_parse(value, &when) && when == file->mtime;
}

int
preconditions(const struct http_request *req, const struct file_facts *file,
              struct byte_ranges *ranges)
{
    bool is_there;
    time_t when;
    if (!tags_match(req, "if-match", file->etag, false, &is_there) && is_there)
        return 412;
    if (!is_there && header_date(req, "if-unmodified-since", &when) && file->mtime > when)
        return 412;
    if (tags_match(req, "if-none-match", file->etag, true, &is_there))
        return 304;
    if (!is_there && header_date(req, "if-modified-since", &when) && file->mtime <= when)
        return 304;
    struct slice range = slice_trim(header(req, "range"));
    if (range.n == 0 || req->is_head || !if_range_holds(req, file))
        return 200;
    return ranges_parse(range, file->size, ranges);
}

/* --- codings ---------------------------------------------------------------------------------------------------------- */

/* q=0, q=0.0, ...: not acceptable */
static bool
is_refused(struct slice parameters)
{
    for (const char *p = parameters.p, *end = p + parameters.n; p < end; p++) {
        if ((*p != 'q' && *p != 'Q') || end - p < 3 || p[1] != '=')
            continue;
        for (p += 2; p < end && (*p == '0' || *p == '.'); p++)
            ;
        return p == end || !char_is(*p, CHAR_DIGIT);
    }
    return false;
}

unsigned
codings_accepted(const struct http_request *req)
{
    enum { ALL = CODING_BR | CODING_GZIP };
    unsigned yes = 0, no = 0;
    bool is_any = false;
    for (unsigned i = 0; i < req->headers_n; i++) {
        struct slice list = req->headers[i].value, one;
        if (!slice_is(req->headers[i].name, "accept-encoding"))
            continue;
        while (h1_list_next(&list, &one)) {
            const char *semicolon = memchr(one.p, ';', one.n);
            size_t n = semicolon != NULL ? (size_t)(semicolon - one.p) : one.n;
            struct slice name = slice_trim((struct slice){ one.p, n });
            bool is_no = is_refused((struct slice){ one.p + n, one.n - n });
            unsigned coding = slice_is_nocase(name, "br") ? CODING_BR
                              : slice_is_nocase(name, "gzip") || slice_is_nocase(name, "x-gzip")
                                  ? CODING_GZIP
                                  : 0;
            if (slice_is(name, "*"))
                is_any = !is_no;
            else if (is_no)
                no |= coding;
            else
                yes |= coding;
        }
    }
    return ((is_any ? (unsigned)ALL : 0) | yes) & ~no;
}
