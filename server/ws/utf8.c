/* utf8.c: is this text UTF-8 (RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF)?
 * Told while it arrives, so that nonsense is refused at its first byte and not at the message's end. */
#include "ws.h"

/* How a character begins: bytes that follow, and bounds of the first of them. False: not so. */
static bool
begin(struct ws_utf8 *u, unsigned char c)
{
    u->low = 0x80;
    u->high = 0xbf;
    if (c < 0xc2 || c > 0xf4)
        return false;
    if (c < 0xe0) {
        u->need = 1;
    } else if (c < 0xf0) {
        u->need = 2;
        if (c == 0xe0)
            u->low = 0xa0; /* else overlong */
        else if (c == 0xed)
            u->high = 0x9f; /* else a surrogate */
    } else {
        u->need = 3;
        if (c == 0xf0)
            u->low = 0x90;
        else if (c == 0xf4)
            u->high = 0x8f;
    }
    return true;
}

bool
ws_utf8_feed(struct ws_utf8 *u, const char *p, size_t n)
{
    const unsigned char *c = (const unsigned char *)p, *end = c + n;
    while (c < end) {
        if (u->need > 0) {
            if (*c < u->low || *c > u->high)
                return false;
            u->low = 0x80;
            u->high = 0xbf;
            u->need--;
            c++;
            continue;
        }
        for (uint64_t word; end - c >= 8; c += 8) { /* eight ASCII characters at a time */
            memcpy(&word, c, 8);
            if (word & 0x8080808080808080ull)
                break;
        }
        while (c < end && *c < 0x80)
            c++;
        if (c < end && !begin(u, *c++))
            return false;
    }
    return true;
}
