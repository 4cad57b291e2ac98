/* ws_frames.h: a client's frames, and what ws/ makes of them written down as text. */
#ifndef RINGCORN_TESTS_WS_FRAMES_H
#define RINGCORN_TESTS_WS_FRAMES_H

#include <stdio.h>
#include <stdlib.h>

#include "ws/ws.h"

/* Appends a masked frame; first: the byte with FIN, RSV and opcode. */
__attribute__((unused)) static void
put_frame(struct buf *b, unsigned first, const void *payload, size_t n)
{
    static const unsigned char mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
    unsigned char head[14] = { (unsigned char)first };
    size_t k = 2;
    if (n < 126) {
        head[1] = (unsigned char)(0x80 | n);
    } else if (n < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(n >> 8);
        head[3] = (unsigned char)n;
        k = 4;
    } else {
        head[1] = 0x80 | 127;
        for (unsigned i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)((uint64_t)n >> (56 - 8 * i));
        k = 10;
    }
    memcpy(head + k, mask, 4);
    if (buf_append(b, head, k + 4) < 0 || buf_reserve(b, n) < 0)
        abort();
    for (size_t i = 0; i < n; i++)
        b->p[b->n++] = (char)(((const unsigned char *)payload)[i] ^ mask[i & 3]);
}

/* Reads all of p in pieces of at most cut bytes (0 = whole) and appends "text(5:hello) ping(3:abc) closed(1000:)
 * failed(1002)" to out: long texts by length alone. */
static void
read_all(struct ws *ws, const char *p, size_t n, size_t cut, struct buf *out)
{
    for (size_t at = 0; at < n;) {
        size_t k = cut == 0 || cut > n - at ? n - at : cut;
        /* exactly as large as the piece, so that a read behind it is seen */
        char *piece = malloc(k);
        memcpy(piece, p + at, k);
        struct slice input = { piece, k };
        enum ws_event event;
        while ((event = ws_read(ws, &input)) != WS_NOTHING) {
            struct slice c = ws_control(ws);
            struct ws_message *m;
            switch (event) {
            case WS_MESSAGE:
                m = ws_take(ws);
                buf_printf(out, "%s(%zu:%.*s) ", m->is_text ? "text" : "bytes", m->n,
                           m->n < 40 ? (int)m->n : 0, m->data);
                free(m);
                break;
            case WS_PING:
            case WS_PONG:
                buf_printf(out, "%s(%zu:%.*s) ", event == WS_PING ? "ping" : "pong", c.n,
                           c.n < 40 ? (int)c.n : 0, c.p);
                break;
            case WS_CLOSED:
                buf_printf(out, "closed(%u:%.*s) ", ws->code, (int)c.n, c.p);
                break;
            case WS_FAILED:
                buf_printf(out, "failed(%u) ", ws->code);
                break;
            case WS_NOTHING:
                break;
            }
        }
        free(piece);
        at += k;
    }
    buf_append(out, "", 1);
    out->n--;
}

#endif
