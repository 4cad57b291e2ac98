/* read.c: frames in, messages out. wslay takes the frames apart (RFC 6455 section 5.2), here is what
 * they mean together: fragments, control frames between them, sizes, text that is none.
 *
 * wslay's context keeps 4 KiB of input, which is as much as an idle WebSocket may cost in all: it is
 * lent for as long as wslay holds bytes that belong to no whole frame. `ahead` counts those. */
#include <errno.h>
#include <stdlib.h>
#include <wslay/wslay.h>

#include "ws.h"

enum { MESSAGE_FIRST = 64 * 1024 }; /* room made for what a frame only promises */

struct ws_frame {
    struct ws_frame *next; /* in the free list */
    wslay_frame_context_ptr ctx;
    struct slice *input; /* while ws_read() runs */
    uint64_t ahead;      /* bytes that wslay was given since the last frame's end */
    uint64_t length;     /* of the frame in hand */
    uint64_t got;        /* payload bytes of it */
    uint8_t opcode;
    bool is_open; /* its head was seen and judged, its end not */
    bool is_final;
    char control[WS_CONTROL_MAX];
};

static ssize_t
on_recv(uint8_t *buf, size_t len, int flags, void *user_data)
{
    struct ws_frame *f = user_data;
    (void)flags;
    size_t n = f->input->n < len ? f->input->n : len;
    if (n == 0)
        return -1; /* WSLAY_ERR_WANT_READ comes of it */
    memcpy(buf, f->input->p, n);
    f->input->p += n;
    f->input->n -= n;
    f->ahead += n;
    return (ssize_t)n;
}

static struct ws_frame *
frame_take(struct ws_shared *shared)
{
    struct ws_frame *f = shared->free_frames;
    if (f != NULL) {
        shared->free_frames = f->next;
        shared->free_frames_n--;
        f->next = NULL;
        return f;
    }
    static const struct wslay_frame_callbacks callbacks = { .recv_callback = on_recv };
    if ((f = calloc(1, sizeof(*f))) == NULL)
        return NULL;
    if (wslay_frame_context_init(&f->ctx, &callbacks, f) != 0) {
        free(f);
        return NULL;
    }
    return f;
}

static void
frame_free(struct ws_frame *f)
{
    wslay_frame_context_free(f->ctx);
    free(f);
}

/* A parser in the middle of a frame is of no use to others. */
static void
frame_give(struct ws *ws)
{
    struct ws_shared *shared = ws->shared;
    struct ws_frame *f = ws->frame;
    ws->frame = NULL;
    if (f == NULL)
        return;
    if (f->ahead > 0 || f->is_open || shared->free_frames_n >= WS_FRAMES_KEPT) {
        frame_free(f);
        return;
    }
    f->next = shared->free_frames;
    shared->free_frames = f;
    shared->free_frames_n++;
}

void
ws_shared_fini(struct ws_shared *shared)
{
    while (shared->free_frames != NULL) {
        struct ws_frame *f = shared->free_frames;
        shared->free_frames = f->next;
        frame_free(f);
    }
    shared->free_frames_n = 0;
    if (shared->heads != NULL)
        wslay_frame_context_free(shared->heads);
    shared->heads = NULL;
    buf_free(&shared->squeezed);
}

void
ws_init(struct ws *ws, struct ws_shared *shared, const struct ws_agreed *agreed)
{
    *ws = (struct ws){ .shared = shared, .agreed = *agreed };
}

void
ws_fini(struct ws *ws)
{
    frame_give(ws);
    ws_compressors_fini(ws);
    free(ws->message);
    ws->message = NULL;
    ws->is_over = true;
}

/* --- the message in hand ------------------------------------------------------------------------- */

unsigned
ws_message_room(struct ws *ws, size_t more)
{
    struct ws_message *m = ws->message;
    uint64_t most = ws->shared->size_max;
    size_t have = m != NULL ? m->n : 0, cap = m != NULL ? m->cap : 0;
    if (more > most - have)
        return WS_TOO_BIG;
    if (m != NULL && cap - have >= more)
        return 0;
    cap = cap * 2 > have + more ? cap * 2 : have + more;
    if (cap > most)
        cap = (size_t)most;
    struct ws_message *bigger = realloc(m, sizeof(*m) + cap);
    if (bigger == NULL)
        return WS_INTERNAL_ERROR;
    if (m == NULL)
        *bigger = (struct ws_message){ 0 };
    bigger->cap = cap;
    ws->message = bigger;
    return 0;
}

unsigned
ws_message_add(struct ws *ws, size_t n)
{
    struct ws_message *m = ws->message;
    m->n += n;
    return m->is_text && !ws_utf8_feed(&ws->utf8, m->data + m->n - n, n) ? WS_BAD_DATA : 0;
}

struct ws_message *
ws_take(struct ws *ws)
{
    struct ws_message *m = ws->message;
    ws->message = NULL;
    return m;
}

struct slice
ws_control(const struct ws *ws)
{
    size_t skip = ws->is_over && ws->control_n >= 2 ? 2 : 0;
    if (ws->frame == NULL)
        return (struct slice){ "", 0 };
    return (struct slice){ ws->frame->control + skip, ws->control_n - skip };
}

uint64_t
ws_missing(const struct ws *ws)
{
    return ws->frame != NULL && ws->frame->is_open ? ws->frame->length - ws->frame->got : 0;
}

/* --- frames -------------------------------------------------------------------------------------- */

/* A frame's head has come. 0 or the code to fail with. */
static unsigned
open_frame(struct ws *ws, const struct wslay_frame_iocb *iocb)
{
    struct ws_frame *f = ws->frame;
    if (!iocb->mask) /* RFC 6455 section 5.1: a client masks everything */
        return WS_PROTOCOL_ERROR;
    f->is_open = true;
    f->got = 0;
    f->length = iocb->payload_length;
    f->opcode = iocb->opcode;
    f->is_final = iocb->fin;
    bool is_deflated = iocb->rsv == WSLAY_RSV1_BIT;
    if (iocb->rsv != 0 && !(is_deflated && ws->agreed.is_on))
        return WS_PROTOCOL_ERROR;
    switch (iocb->opcode) {
    case WSLAY_TEXT_FRAME:
    case WSLAY_BINARY_FRAME:
        if (ws->in_message)
            return WS_PROTOCOL_ERROR;
        ws->is_deflated = is_deflated;
        ws->utf8 = (struct ws_utf8){ 0 };
        unsigned code = ws_message_room(ws, 0);
        if (code != 0)
            return code;
        ws->message->is_text = iocb->opcode == WSLAY_TEXT_FRAME;
        ws->in_message = true;
        break;
    case WSLAY_CONTINUATION_FRAME:
        if (!ws->in_message || is_deflated)
            return WS_PROTOCOL_ERROR;
        break;
    case WSLAY_CONNECTION_CLOSE:
    case WSLAY_PING:
    case WSLAY_PONG:
        ws->control_n = 0;
        return is_deflated ? WS_PROTOCOL_ERROR : 0; /* wslay has seen to size and FIN */
    default:
        return WS_PROTOCOL_ERROR;
    }
    if (ws->is_deflated)
        return 0; /* its size is known when it is inflated */
    if (f->length > ws->shared->size_max - ws->message->n)
        return WS_TOO_BIG;
    return ws_message_room(ws, f->length < MESSAGE_FIRST ? (size_t)f->length : MESSAGE_FIRST);
}

static unsigned
add_data(struct ws *ws, const struct wslay_frame_iocb *iocb, bool is_end)
{
    const char *p = (const char *)iocb->data;
    size_t n = iocb->data_length;
    if (ws->is_deflated)
        return ws_inflate(ws, p, n, is_end && ws->frame->is_final);
    unsigned code = ws_message_room(ws, n);
    if (code != 0)
        return code;
    if (n > 0)
        memcpy(ws->message->data + ws->message->n, p, n);
    return ws_message_add(ws, n);
}

static enum ws_event
fail(struct ws *ws, unsigned code)
{
    ws->is_over = true;
    ws->control_n = 0;
    ws->code = (uint16_t)code;
    return WS_FAILED;
}

/* RFC 6455 section 5.5.1 and 7.4. */
static enum ws_event
end_close(struct ws *ws)
{
    const struct ws_frame *f = ws->frame;
    struct ws_utf8 utf8 = { 0 };
    unsigned code = WS_NO_CODE;
    if (ws->control_n == 1)
        return fail(ws, WS_PROTOCOL_ERROR);
    if (ws->control_n >= 2) {
        code = (unsigned)(uint8_t)f->control[0] << 8 | (uint8_t)f->control[1];
        if (!ws_code_is_valid(code))
            return fail(ws, WS_PROTOCOL_ERROR);
        if (!ws_utf8_feed(&utf8, f->control + 2, ws->control_n - 2u) || !ws_utf8_is_whole(&utf8))
            return fail(ws, WS_BAD_DATA);
    }
    ws->is_over = true;
    ws->code = (uint16_t)code;
    return WS_CLOSED;
}

/* The whole frame has come. */
static enum ws_event
end_frame(struct ws *ws)
{
    struct ws_frame *f = ws->frame;
    f->is_open = false;
    f->ahead -= f->length + 6 + (f->length < 126 ? 0 : f->length <= UINT16_MAX ? 2 : 8);
    switch (f->opcode) {
    case WSLAY_CONNECTION_CLOSE:
        return end_close(ws);
    case WSLAY_PING:
        return WS_PING;
    case WSLAY_PONG:
        return WS_PONG;
    default:
        if (!f->is_final)
            return WS_NOTHING;
        ws->in_message = false;
        if (ws->message->is_text && !ws_utf8_is_whole(&ws->utf8))
            return fail(ws, WS_BAD_DATA);
        return WS_MESSAGE;
    }
}

enum ws_event
ws_read(struct ws *ws, struct slice *input)
{
    if (ws->is_over) {
        input->n = 0;
        return WS_NOTHING;
    }
    if (ws->frame == NULL) {
        if (input->n == 0)
            return WS_NOTHING;
        if ((ws->frame = frame_take(ws->shared)) == NULL)
            return fail(ws, WS_INTERNAL_ERROR);
    }
    struct ws_frame *f = ws->frame;
    f->input = input;
    for (;;) {
        struct wslay_frame_iocb iocb;
        ssize_t n = wslay_frame_recv(f->ctx, &iocb);
        if (n == WSLAY_ERR_WANT_READ) {
            if (f->ahead == 0)
                frame_give(ws);
            return WS_NOTHING;
        }
        if (n < 0)
            return fail(ws, WS_PROTOCOL_ERROR);
        unsigned code = f->is_open ? 0 : open_frame(ws, &iocb);
        if (code != 0)
            return fail(ws, code);
        f->got += iocb.data_length;
        bool is_end = f->got == f->length;
        if (f->opcode >= WSLAY_CONNECTION_CLOSE) {
            memcpy(f->control + ws->control_n, iocb.data, iocb.data_length);
            ws->control_n = (uint8_t)(ws->control_n + iocb.data_length);
        } else if ((code = add_data(ws, &iocb, is_end)) != 0) {
            return fail(ws, code);
        }
        if (!is_end)
            continue;
        enum ws_event event = end_frame(ws);
        if (event != WS_NOTHING)
            return event;
    }
}
