/* write.c: what we send, as far as it is not the application's bytes. */
#include <errno.h>
#include <wslay/wslay.h>

#include "ws.h"

bool
ws_code_is_valid(unsigned code)
{
    /* 1004 is reserved; 1005, 1006 and 1015 stand for what no Close says. */
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

/* wslay hands over the head first, then the payload, which goes its own way. */
static ssize_t
on_send(const uint8_t *data, size_t len, int flags, void *user_data)
{
    struct ws_shared *shared = user_data;
    (void)flags;
    if (shared->head_to != NULL) {
        ASSERT(len <= WS_HEAD_MAX);
        memcpy(shared->head_to, data, len);
        shared->head_to = NULL;
        shared->head_n = len;
    }
    return (ssize_t)len;
}

int
ws_shared_init(struct ws_shared *shared)
{
    struct wslay_frame_callbacks callbacks = { .send_callback = on_send };
    wslay_frame_context_ptr ctx;
    if (wslay_frame_context_init(&ctx, &callbacks, shared) != 0)
        return -ENOMEM;
    shared->heads = ctx;
    return 0;
}

size_t
ws_head(struct ws_shared *shared, char out[WS_HEAD_MAX], enum ws_kind kind, bool is_deflated,
        uint64_t n)
{
    struct wslay_frame_iocb iocb = {
        .fin = 1,
        .rsv = is_deflated ? WSLAY_RSV1_BIT : 0,
        .opcode = (uint8_t)kind,
        .payload_length = n,
        .data = (const uint8_t *)out, /* only counted */
        .data_length = (size_t)n,
    };
    shared->head_to = out;
    ssize_t sent = wslay_frame_send(shared->heads, &iocb);
    ASSERT(sent >= 0 && (uint64_t)sent == n && shared->head_to == NULL);
    return shared->head_n;
}

size_t
ws_close_payload(char out[WS_CONTROL_MAX], unsigned code, struct slice reason)
{
    if (code == WS_NO_CODE)
        return 0;
    size_t n = reason.n;
    if (n > WS_REASON_MAX) {
        n = WS_REASON_MAX;
        while (n > 0 && ((unsigned char)reason.p[n] & 0xc0) == 0x80)
            n--;
    }
    out[0] = (char)(code >> 8);
    out[1] = (char)code;
    if (n > 0)
        memcpy(out + 2, reason.p, n);
    return n + 2;
}
