/* request_id.c: what names a request, in the application, in both logs and in the answer: as a trusted proxy says, or made here. */
#include <errno.h>
#include <sys/random.h>

#include "h1.h"

/* What may be said of a name: it stands in log lines and headers as it is. */
static bool
is_id(struct slice s)
{
    if (s.n == 0 || s.n > H1_ID_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!is_letter && (c == '\0' || strchr("-_.~+/=:@;,", c) == NULL))
            return false;
    }
    return true;
}

int
request_id_init(struct http_app *app)
{
    if (!app->conf->request_id)
        return 0;
    uint64_t *state = app->own.id_state;
    do {
        if (getrandom(state, sizeof(app->own.id_state), 0) != (ssize_t)sizeof(app->own.id_state))
            return -EIO;
    } while (state[0] == 0 && state[1] == 0);
    return 0;
}

/* xoroshiro128+ (Blackman, Vigna): 2^128 - 1 states, begun at random in each process. */
static uint64_t
next(uint64_t s[2])
{
    uint64_t a = s[0], b = s[1], result = a + b;
    b ^= a;
    s[0] = (a << 24 | a >> 40) ^ b ^ (b << 16);
    s[1] = b << 37 | b >> 27;
    return result;
}

static void
make(struct http_app *app, char out[H1_ID_MADE])
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < H1_ID_MADE; i += 16) {
        uint64_t word = next(app->own.id_state);
        for (size_t k = 0; k < 16; k++, word >>= 4)
            out[i + k] = hex[word & 15];
    }
}

void
request_id_take(struct h1 *h)
{
    struct h1_req *r = h->r;
    const struct conf *conf = h->app->conf;
    size_t n = strlen(conf->request_id_header);
    for (unsigned i = 0; i < r->req.headers_n; i++) {
        const struct http_header *v = &r->req.headers[i];
        if (v->name.n != n || memcmp(v->name.p, conf->request_id_header, n) != 0)
            continue;
        if (!is_id(v->value) || !conn_peer_is_trusted(&h->conn))
            break;
        memcpy(r->id, v->value.p, v->value.n);
        r->req.id = (struct slice){ r->id, v->value.n };
        return;
    }
    make(h->app, r->id);
    r->req.id = (struct slice){ r->id, H1_ID_MADE };
}

char *
request_id_put(char *p, const struct h1 *h, const struct http_header *headers, size_t n)
{
    const struct conf *conf = h->app->conf;
    if (LIKELY(!conf->request_id_respond) || h->r->req.id.n == 0)
        return p;
    for (size_t i = 0; i < n; i++)
        if (slice_is_nocase(headers[i].name, conf->request_id_header))
            return p; /* the application says it itself */
    struct http_header v = { slice_of(conf->request_id_header), h->r->req.id };
    enum http_write err;
    char *end = h1_put_header(p, &v, &err);
    return end != NULL ? end : p;
}
