/* h1_more.c: what an answer may have beside its head and body: early hints in front of the one, trailers behind the other. */
#include <errno.h>
#include <stdlib.h>

#include "chars.h"
#include "h1.h"

/* --- 103 Early Hints ------------------------------------------------------------------------------------------------------ */

/* Queues text in front of a head that waits for the first piece of its body. 0 or -errno. */
static int
put_ahead(struct h1 *h, const char *text, size_t n)
{
    struct h1_req *r = h->r;
    if (r->out == NULL)
        return conn_write(&h->conn, text, n);
    MEM_OWNED char *head = malloc(r->out_n);
    size_t need = r->out_n + H1_SEND_SLACK, room;
    if (head == NULL)
        return -ENOMEM;
    memcpy(head, r->out, r->out_n);
    conn_out_cancel(&h->conn);
    r->out = NULL;
    int err = conn_write(&h->conn, text, n);
    char *out = err < 0 ? NULL : conn_out(&h->conn, need, &room);
    if (out == NULL)
        return err < 0 ? err : -ENOMEM;
    memcpy(out, head, r->out_n);
    r->out = out;
    r->out_room = room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
    return 0;
}

enum http_write
h1_hint(struct h1 *h, const struct http_header *headers, size_t n)
{
    static const struct slice line = { "HTTP/1.1 103 Early Hints\r\n", 26 };
    size_t need = line.n + 2, bad;
    enum http_write err = h1_check_start(200, (struct slice){ 0 }, headers, n, &bad);
    if (err != HTTP_OK)
        return HTTP_BAD_VALUE;
    if (h1_is_broken(h) || h->r->sending || h->r->req.version_minor == 0 || h->r->req.is_websocket)
        return HTTP_OK;
    for (size_t i = 0; i < n; i++)
        need += headers[i].name.n + headers[i].value.n + 4;
    MEM_OWNED char *text = malloc(need);
    if (text == NULL)
        return HTTP_OK; /* a hint can be missed */
    memcpy(text, line.p, line.n);
    char *p = text + line.n;
    for (size_t i = 0; i < n; i++)
        p = h1_put_header(p, &headers[i], &err); /* checked above */
    memcpy(p, "\r\n", 2);
    int error = put_ahead(h, text, need);
    if (error < 0 && !h->conn.broken)
        conn_fail(&h->conn, error);
    return HTTP_OK;
}

/* --- trailers ------------------------------------------------------------------------------------------------------------- */

/* Fields that a recipient needs before the body, or that say how it is framed (RFC 9110 section 6.5.1). */
bool
h1_may_trail(struct slice name)
{
    static const char *const never[] = { "content-length", "transfer-encoding",
                                         "connection",     "keep-alive",
                                         "trailer",        "te",
                                         "upgrade",        "host",
                                         "content-type",   "content-encoding",
                                         "content-range",  "expect",
                                         "set-cookie",     "authorization",
                                         "cookie",         "proxy-authorization" };
    for (size_t i = 0; i < ARRAY_LEN(never); i++)
        if (slice_is_nocase(name, never[i]))
            return false;
    return true;
}

enum http_write
h1_trailers(struct h1 *h, const struct http_header *headers, size_t n, bool is_last, size_t *bad)
{
    struct h1_req *r = h->r;
    size_t need = 8;
    enum http_write err = h1_check_start(200, (struct slice){ 0 }, headers, n, bad);
    if (err != HTTP_OK)
        return err;
    for (size_t i = 0; i < n; i++) {
        need += headers[i].name.n + headers[i].value.n + 4;
        if (h1_may_trail(headers[i].name))
            continue;
        *bad = i;
        return HTTP_BAD_TRANSFER;
    }
    if (!r->sending && (err = h1_write(h, "", 0, NULL, false)) < 0) /* a body of no bytes */
        return err;
    if (h1_is_broken(h))
        return HTTP_BROKEN;
    if (!r->chunked_out || r->no_body)
        return is_last ? h1_write(h, "", 0, NULL, true) : HTTP_OK;
    MEM_OWNED char *text = malloc(need);
    char *p = text;
    if (text != NULL && !r->in_trailers)
        p = (char *)memcpy(p, "0\r\n", 3) + 3;
    for (size_t i = 0; text != NULL && i < n; i++)
        p = h1_put_header(p, &headers[i], &err);
    if (text != NULL && is_last)
        p = (char *)memcpy(p, "\r\n", 2) + 2;
    r->in_trailers = true;
    int error = text == NULL ? -ENOMEM : conn_write(&h->conn, text, (size_t)(p - text));
    if (error < 0) {
        if (!h->conn.broken)
            conn_fail(&h->conn, error);
        return HTTP_BROKEN;
    }
    r->finished = is_last;
    if (is_last) {
        tally_answer(h);
        access_note(h);
    }
    return HTTP_OK;
}
