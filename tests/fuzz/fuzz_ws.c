/* fuzz_ws.c: any bytes as a client's frames, whole and cut up: what is told must not depend on the
 * cuts, and nothing may be left behind. The first byte says what was agreed. */
#include "../unit/ws_frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 64 * 1024 };

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ws_shared shared;
    if (shared.heads == NULL) {
        shared.size_max = 5000;
        shared.deflate = (struct ws_deflate_conf){
            .is_on = true, .window_bits = 12, .mem_level = 5, .level = 1
        };
        ASSERT(ws_shared_init(&shared) == 0);
    }
    if (size < 2 || size > INPUT_MAX)
        return 0;
    struct ws_agreed agreed = { 0 };
    if (data[0] & 1)
        agreed = (struct ws_agreed){ .is_on = true,
                                     .server_bits = 12,
                                     .client_bits = (uint8_t)(8 + (data[0] >> 5)) };
    agreed.client_no_takeover = data[0] & 2;
    struct buf told[3] = { { 0 }, { 0 }, { 0 } };
    const size_t cuts[3] = { 0, 1, 2 + data[0] };
    for (unsigned i = 0; i < 3; i++) {
        struct ws ws;
        ws_init(&ws, &shared, &agreed);
        read_all(&ws, (const char *)data + 1, size - 1, cuts[i], &told[i]);
        ws_rest(&ws);
        ws_fini(&ws);
        ASSERT(told[i].n == told[0].n && memcmp(told[i].p, told[0].p, told[0].n) == 0);
        ASSERT(shared.compressors_bytes == 0);
    }
    /* The same bytes as what a client offers. */
    struct ws_agreed offered = { 0 };
    char text[WS_ANSWER_MAX];
    ws_agree(&offered, &shared.deflate, (struct slice){ (const char *)data, size });
    if (offered.is_on)
        ASSERT(ws_agreed_text(&offered, text) < WS_ANSWER_MAX);
    for (unsigned i = 0; i < 3; i++)
        buf_free(&told[i]);
    return 0;
}
