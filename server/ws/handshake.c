/* handshake.c: the opening request, as far as it is the WebSocket's own (RFC 6455 section 4.2). That
 * it is a GET of HTTP/1.1 with Upgrade and Connection is http/'s to see. */
#include "ws.h"

static const char GUID[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

enum { KEY_LEN = 24 }; /* sixteen bytes in base64 */

/* 22 digits of which the last has four bits of nothing, and "==". */
static bool
is_key(struct slice key)
{
    if (key.n != KEY_LEN || key.p[22] != '=' || key.p[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++) {
        if (key.p[i] == '\0' || strchr(DIGITS, key.p[i]) == NULL)
            return false;
    }
    return ((strchr(DIGITS, key.p[21]) - DIGITS) & 15) == 0;
}

static void
accept_of(struct slice key, char out[WS_ACCEPT_LEN])
{
    char text[KEY_LEN + sizeof(GUID) - 1];
    uint8_t digest[21] = { 0 };
    memcpy(text, key.p, KEY_LEN);
    memcpy(text + KEY_LEN, GUID, sizeof(GUID) - 1);
    sha1(text, sizeof(text), digest);
    for (unsigned i = 0; i < 7; i++) {
        const uint8_t *p = digest + 3 * i;
        uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        for (unsigned k = 0; k < 4; k++)
            out[4 * i + k] = DIGITS[bits >> (18 - 6 * k) & 63];
    }
    out[WS_ACCEPT_LEN - 1] = '='; /* twenty bytes end in one */
}

void
ws_handshake_header(struct ws_handshake *hs, const struct ws_deflate_conf *conf, struct slice name,
                    struct slice value)
{
    if (name.n < 17 || memcmp(name.p, "sec-websocket-", 14) != 0)
        return;
    if (slice_is(name, "sec-websocket-key")) {
        hs->keys++;
        hs->is_key_valid = is_key(value);
        if (hs->is_key_valid)
            accept_of(value, hs->accept);
    } else if (slice_is(name, "sec-websocket-version")) {
        hs->versions++;
        hs->is_version_13 = slice_is(value, "13");
    } else if (slice_is(name, "sec-websocket-extensions")) {
        ws_agree(&hs->agreed, conf, value);
    }
}

int
ws_handshake_end(const struct ws_handshake *hs)
{
    /* The version first: to one we do not know the rest may be written in another way. */
    if (hs->versions != 1 || !hs->is_version_13)
        return 426;
    return hs->keys == 1 && hs->is_key_valid ? 0 : 400;
}
