/* deflate.c: permessage-deflate (RFC 7692): what is agreed, inflating with a bound, compressing.
 *
 * zlib's memory, by its own formula: a compressor takes 4 windows and 512 << memLevel bytes, an
 * inflater its window and some 9 KiB. Both are made when the first message needs them. */
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "ws.h"

enum {
    INFLATE_OWN = 9 * 1024,     /* bytes of an inflater beside its window */
    DEFLATE_OWN = 6 * 1024,     /* and of a compressor beside windows and hash tables */
    ROOM_FIRST = 1024,          /* bytes made room for before it is known what comes out */
    SQUEEZED_KEPT = 256 * 1024, /* a larger buffer goes back at once */
    BITS_MIN = 9,               /* zlib cannot make raw streams with 8 */
    BITS_MAX = 15,
};

/* --- what is agreed ------------------------------------------------------------------------------ */

/* The next piece of a field up to one of the marks that stand outside of quotes; false at the end. */
static bool
piece(struct slice *rest, char mark, struct slice *out)
{
    if (rest->p == NULL)
        return false;
    bool is_quoted = false;
    size_t n = 0;
    for (; n < rest->n && (is_quoted || rest->p[n] != mark); n++)
        is_quoted ^= rest->p[n] == '"';
    *out = slice_trim((struct slice){ rest->p, n });
    if (n < rest->n)
        *rest = (struct slice){ rest->p + n + 1, rest->n - n - 1 };
    else
        rest->p = NULL;
    return true;
}

/* 8 to 15, perhaps in quotes; 0 = none of these. */
static unsigned
bits_of(struct slice value)
{
    if (value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"')
        value = (struct slice){ value.p + 1, value.n - 2 };
    if (value.n == 1 && (value.p[0] == '8' || value.p[0] == '9'))
        return (unsigned)(value.p[0] - '0');
    if (value.n == 2 && value.p[0] == '1' && value.p[1] >= '0' && value.p[1] <= '5')
        return 10u + (unsigned)(value.p[1] - '0');
    return 0;
}

/* One offer: may it be accepted, and as what? Parameters that are unknown, doubled or ill formed
 * decline it (RFC 7692 section 7.1). */
static bool
consider(struct ws_agreed *out, const struct ws_deflate_conf *conf, struct slice offer)
{
    struct slice part, name, value;
    bool server_bits = false, client_bits = false, server_no = false, client_no = false;
    if (!piece(&offer, ';', &part) || !slice_is_nocase(part, "permessage-deflate"))
        return false;
    *out = (struct ws_agreed){ .is_on = true,
                               .server_bits = conf->window_bits,
                               .client_bits = BITS_MAX,
                               .server_no_takeover = conf->no_takeover,
                               .client_no_takeover = conf->no_takeover,
                               .server_bits_are_told = conf->window_bits < BITS_MAX };
    while (piece(&offer, ';', &part)) {
        bool has_value = memchr(part.p, '=', part.n) != NULL;
        piece(&part, '=', &name);
        value = has_value && part.p != NULL ? slice_trim(part) : (struct slice){ "", 0 };
        if (slice_is_nocase(name, "server_no_context_takeover") && !server_no && !has_value) {
            server_no = out->server_no_takeover = true;
        } else if (slice_is_nocase(name, "client_no_context_takeover") && !client_no &&
                   !has_value) {
            client_no = out->client_no_takeover = true;
        } else if (slice_is_nocase(name, "server_max_window_bits") && !server_bits) {
            unsigned bits = bits_of(value);
            if (bits < BITS_MIN)
                return false;
            server_bits = out->server_bits_are_told = true;
            if (bits < out->server_bits)
                out->server_bits = (uint8_t)bits;
        } else if (slice_is_nocase(name, "client_max_window_bits") && !client_bits) {
            unsigned bits = has_value ? bits_of(value) : BITS_MAX;
            if (bits == 0)
                return false;
            client_bits = out->client_bits_are_told = true;
            out->client_bits = (uint8_t)(bits < conf->window_bits ? bits : conf->window_bits);
        } else {
            return false;
        }
    }
    return true;
}

void
ws_agree(struct ws_agreed *agreed, const struct ws_deflate_conf *conf, struct slice field)
{
    struct slice offer;
    struct ws_agreed found;
    if (!conf->is_on)
        return;
    while (!agreed->is_on && piece(&field, ',', &offer)) {
        if (consider(&found, conf, offer))
            *agreed = found;
    }
}

size_t
ws_agreed_text(const struct ws_agreed *agreed, char out[WS_ANSWER_MAX])
{
    char server[32] = "", client[32] = "";
    if (agreed->server_bits_are_told)
        snprintf(server, sizeof(server), "; server_max_window_bits=%u", agreed->server_bits);
    if (agreed->client_bits_are_told)
        snprintf(client, sizeof(client), "; client_max_window_bits=%u", agreed->client_bits);
    return (size_t)snprintf(out, WS_ANSWER_MAX, "permessage-deflate%s%s%s%s", server, client,
                            agreed->server_no_takeover ? "; server_no_context_takeover" : "",
                            agreed->client_no_takeover ? "; client_no_context_takeover" : "");
}

/* --- compressors --------------------------------------------------------------------------------- */

static size_t
inflate_bytes(const struct ws *ws)
{
    return ((size_t)1 << ws->agreed.client_bits) + INFLATE_OWN;
}

static size_t
deflate_bytes(const struct ws *ws)
{
    return ((size_t)4 << ws->agreed.server_bits) + ((size_t)512 << ws->shared->deflate.mem_level) +
           DEFLATE_OWN;
}

static void
drop_inflate(struct ws *ws)
{
    if (ws->inflate == NULL)
        return;
    inflateEnd(ws->inflate);
    free(ws->inflate);
    ws->inflate = NULL;
    ws->shared->compressors_bytes -= inflate_bytes(ws);
}

static void
drop_deflate(struct ws *ws)
{
    if (ws->deflate == NULL)
        return;
    deflateEnd(ws->deflate);
    free(ws->deflate);
    ws->deflate = NULL;
    ws->shared->compressors_bytes -= deflate_bytes(ws);
}

void
ws_compressors_fini(struct ws *ws)
{
    drop_inflate(ws);
    drop_deflate(ws);
}

void
ws_rest(struct ws *ws)
{
    drop_deflate(ws);
    if (ws->agreed.client_no_takeover && !ws->in_message)
        drop_inflate(ws);
}

/* An inflater is made even where compressors have used up their share: what was agreed must be read.
 * The handshake agrees on nothing more then. */
static unsigned
make_inflate(struct ws *ws)
{
    z_stream *z = calloc(1, sizeof(*z));
    /* zlib inflates streams made with 8 bits by 9 as well */
    int bits = ws->agreed.client_bits < BITS_MIN ? BITS_MIN : ws->agreed.client_bits;
    if (z == NULL || inflateInit2(z, -bits) != Z_OK) {
        free(z);
        return WS_INTERNAL_ERROR;
    }
    ws->inflate = z;
    ws->shared->compressors_bytes += inflate_bytes(ws);
    return 0;
}

/* Inflates what z has, as far as it goes. */
static unsigned
inflate_piece(struct ws *ws, const char *p, size_t n)
{
    z_stream *z = ws->inflate;
    Bytef over;
    z->next_in = (Bytef *)(uintptr_t)p;
    z->avail_in = (uInt)n; /* a piece is at most wslay's buffer */
    for (;;) {
        struct ws_message *m = ws->message;
        size_t room = m->cap - m->n;
        if (room == 0) {
            /* One byte more than there may be would show that there are too many. */
            if (m->n == ws->shared->size_max) {
                z->next_out = &over;
                z->avail_out = 1;
            } else {
                uint64_t left = ws->shared->size_max - m->n;
                size_t more = m->cap > ROOM_FIRST ? m->cap : ROOM_FIRST;
                unsigned code = ws_message_room(ws, more < left ? more : (size_t)left);
                if (code != 0)
                    return code;
                continue;
            }
        } else {
            room = room < UINT32_MAX / 2 ? room : UINT32_MAX / 2;
            z->next_out = (Bytef *)m->data + m->n;
            z->avail_out = (uInt)room;
        }
        size_t before = z->avail_out;
        int result = inflate(z, Z_SYNC_FLUSH);
        size_t made = before - z->avail_out;
        if (room == 0) {
            if (made > 0)
                return WS_TOO_BIG;
        } else if (made > 0) {
            unsigned code = ws_message_add(ws, made);
            if (code != 0)
                return code;
        }
        if (result == Z_STREAM_END) {
            /* A block that says it is the last (section 7.2.3.5): what follows goes on with the
             * same window. */
            if (inflateResetKeep(z) != Z_OK)
                return WS_BAD_DATA;
            if (z->avail_in == 0)
                return 0;
            continue;
        }
        if (result == Z_BUF_ERROR || (result == Z_OK && z->avail_in == 0 && z->avail_out > 0))
            return 0; /* it wants more input */
        if (result != Z_OK)
            return result == Z_MEM_ERROR ? WS_INTERNAL_ERROR : WS_BAD_DATA;
    }
}

unsigned
ws_inflate(struct ws *ws, const char *p, size_t n, bool is_last)
{
    static const char tail[4] = { 0, 0, (char)0xff, (char)0xff };
    unsigned code = ws->inflate == NULL ? make_inflate(ws) : 0;
    if (code == 0 && n > 0)
        code = inflate_piece(ws, p, n);
    if (code == 0 && is_last) {
        code = inflate_piece(ws, tail, sizeof(tail));
        if (code == 0 && ws->agreed.client_no_takeover && inflateReset(ws->inflate) != Z_OK)
            code = WS_INTERNAL_ERROR;
    }
    return code;
}

static bool
make_deflate(struct ws *ws)
{
    const struct ws_deflate_conf *conf = &ws->shared->deflate;
    size_t bytes = deflate_bytes(ws);
    if (conf->memory_max > 0 && ws->shared->compressors_bytes + bytes > conf->memory_max)
        return false;
    z_stream *z = calloc(1, sizeof(*z));
    if (z == NULL || deflateInit2(z, conf->level, Z_DEFLATED, -ws->agreed.server_bits,
                                  conf->mem_level, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(z);
        return false;
    }
    ws->deflate = z;
    ws->shared->compressors_bytes += bytes;
    return true;
}

bool
ws_squeeze(struct ws *ws, const char *p, size_t n, struct slice *out)
{
    struct ws_shared *shared = ws->shared;
    struct buf *b = &shared->squeezed;
    if (!ws->agreed.is_on || n < shared->deflate.size_min || n == 0 || n > UINT32_MAX / 2)
        return false;
    if (ws->deflate == NULL && !make_deflate(ws))
        return false;
    z_stream *z = ws->deflate;
    size_t bound = deflateBound(z, (uLong)n) + 16;
    if (b->cap > SQUEEZED_KEPT && bound < SQUEEZED_KEPT)
        buf_free(b);
    b->n = 0;
    if (bound > UINT32_MAX || buf_reserve(b, bound) < 0)
        return false;
    z->next_in = (Bytef *)(uintptr_t)p;
    z->avail_in = (uInt)n;
    z->next_out = (Bytef *)b->p;
    z->avail_out = (uInt)bound;
    int result = deflate(z, Z_SYNC_FLUSH);
    size_t made = bound - z->avail_out;
    if (result != Z_OK || z->avail_in > 0 || z->avail_out == 0 || made < 4) {
        drop_deflate(ws); /* its window has this message, the client's has not */
        return false;
    }
    if (ws->agreed.server_no_takeover)
        deflateReset(z);
    *out = (struct slice){ b->p, made - 4 }; /* without 00 00 ff ff (section 7.2.1) */
    return true;
}
