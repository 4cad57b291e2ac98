/* The opening handshake: key, version, and what is agreed about compression. */
#include "tap.h"
#include "ws/ws.h"

static const struct ws_deflate_conf conf = {
    .is_on = true, .window_bits = 12, .mem_level = 5, .level = 6, .size_min = 0
};

static void
digests(void)
{
    static const struct {
        const char *text;
        const char *hex;
    } rows[] = {
        { "", "da39a3ee5e6b4b0d3255bfef95601890afd80709" },
        { "abc", "a9993e364706816aba3e25717850c26c9cd0d89d" },
        { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
          "84983e441c3bd26ebaae4aa1f95129e5e54670f1" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t digest[20];
        char hex[41];
        sha1(rows[i].text, strlen(rows[i].text), digest);
        for (unsigned k = 0; k < 20; k++)
            snprintf(hex + 2 * k, 3, "%02x", digest[k]);
        ok(strcmp(hex, rows[i].hex) == 0, "SHA-1 of %zu bytes: %s", strlen(rows[i].text), hex);
    }
}

static int
shake(struct ws_handshake *hs, const char *version, const char *key)
{
    *hs = (struct ws_handshake){ 0 };
    ws_handshake_header(hs, &conf, SLICE("host"), SLICE("x"));
    if (version != NULL)
        ws_handshake_header(hs, &conf, SLICE("sec-websocket-version"), slice_of(version));
    if (key != NULL)
        ws_handshake_header(hs, &conf, SLICE("sec-websocket-key"), slice_of(key));
    return ws_handshake_end(hs);
}

static void
keys(void)
{
    struct ws_handshake hs;
    CHECK(shake(&hs, "13", "dGhlIHNhbXBsZSBub25jZQ==") == 0); /* RFC 6455 section 1.3 */
    CHECK(memcmp(hs.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", WS_ACCEPT_LEN) == 0);
    CHECK(shake(&hs, "13", NULL) == 400);
    CHECK(shake(&hs, "13", "") == 400);
    CHECK(shake(&hs, "13", "dGhlIHNhbXBsZSBub25jZQ=") == 400);
    CHECK(shake(&hs, "13", "dGhlIHNhbXBsZSBub25jZR==") == 400); /* bits behind the sixteenth byte */
    CHECK(shake(&hs, "13", "dGhlIHNhbXBsZSBub25-ZQ==") == 400);
    CHECK(shake(&hs, "13", "dGhlIHNhbXBsZSBub25jZQ==AAAA") == 400);
    CHECK(shake(&hs, "12", "dGhlIHNhbXBsZSBub25jZQ==") == 426);
    CHECK(shake(&hs, "8, 13", "dGhlIHNhbXBsZSBub25jZQ==") == 426);
    CHECK(shake(&hs, NULL, "dGhlIHNhbXBsZSBub25jZQ==") == 426);
    shake(&hs, "13", "dGhlIHNhbXBsZSBub25jZQ==");
    ws_handshake_header(&hs, &conf, SLICE("sec-websocket-key"), SLICE("dGhlIHNhbXBsZSBub25jZQ=="));
    ok(ws_handshake_end(&hs) == 400, "two keys");
    shake(&hs, "13", "dGhlIHNhbXBsZSBub25jZQ==");
    ws_handshake_header(&hs, &conf, SLICE("sec-websocket-version"), SLICE("13"));
    ok(ws_handshake_end(&hs) == 426, "two versions");
}

static void
offers(void)
{
#define PMD "permessage-deflate"
    static const struct {
        const char *field, *answer;
    } rows[] = {
        { PMD, PMD "; server_max_window_bits=12" },
        { "Permessage-Deflate", PMD "; server_max_window_bits=12" },
        { PMD "; client_max_window_bits",
          PMD "; server_max_window_bits=12; client_max_window_bits=12" },
        { PMD ";client_max_window_bits=10;server_max_window_bits=\"9\"",
          PMD "; server_max_window_bits=9; client_max_window_bits=10" },
        { PMD "; client_max_window_bits=8",
          PMD "; server_max_window_bits=12; client_max_window_bits=8" },
        { PMD "; server_no_context_takeover; client_no_context_takeover", PMD
          "; server_max_window_bits=12; server_no_context_takeover; client_no_context_takeover" },
        { PMD "; server_max_window_bits=8, " PMD, PMD "; server_max_window_bits=12" },
        { "x-webkit-deflate-frame, " PMD, PMD "; server_max_window_bits=12" },
        { PMD "; server_max_window_bits=8", NULL },
        { PMD "; server_max_window_bits", NULL },
        { PMD "; server_max_window_bits=16", NULL },
        { PMD "; server_max_window_bits=09", NULL },
        { PMD "; client_max_window_bits=7", NULL },
        { PMD "; client_max_window_bits=", NULL },
        { PMD "; client_max_window_bits; client_max_window_bits", NULL },
        { PMD "; server_no_context_takeover=1", NULL },
        { PMD "; x=\"a, b; c\"", NULL },
        { PMD ";", NULL },
        { "", NULL },
        { ",,;", NULL },
        { "deflate", NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ws_agreed agreed = { 0 };
        char text[WS_ANSWER_MAX] = "";
        ws_agree(&agreed, &conf, slice_of(rows[i].field));
        if (agreed.is_on)
            ws_agreed_text(&agreed, text);
        ok(agreed.is_on == (rows[i].answer != NULL) &&
               (!agreed.is_on || strcmp(text, rows[i].answer) == 0),
           "%s -> %s", rows[i].field, agreed.is_on ? text : "declined");
    }
    struct ws_deflate_conf off = { 0 };
    struct ws_agreed agreed = { 0 };
    ws_agree(&agreed, &off, SLICE(PMD));
    CHECK(!agreed.is_on);
}

static void
utf8(void)
{
    static const struct {
        const char *text;
        bool is_valid;
    } rows[] = {
        { "\x7f", true },
        { "\xc2\x80", true },
        { "\xe0\xa0\x80", true },
        { "\xed\x9f\xbf", true },
        { "\xee\x80\x80", true },
        { "\xef\xbf\xbf", true },
        { "\xf0\x90\x80\x80", true },
        { "\xf4\x8f\xbf\xbf", true },
        { "\x80", false },
        { "\xc0\x80", false },
        { "\xc1\xbf", false },
        { "\xe0\x9f\xbf", false },
        { "\xed\xa0\x80", false },
        { "\xf0\x8f\xbf\xbf", false },
        { "\xf4\x90\x80\x80", false },
        { "\xf5\x80", false },
        { "\xff", false },
        { "\xc3(", false },
        { "\xe2\x28\xa1", false },
        { "\xe2\x82(", false },
        { "abcdefghijklmnop\xc3\xa4qrstuvwxyz", true },
        { "abcdefghijklmnop\xa4qrstuvwxyz", false },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = strlen(rows[i].text);
        struct ws_utf8 whole = { 0 }, cut = { 0 };
        bool once = ws_utf8_feed(&whole, rows[i].text, n), by_byte = true;
        for (size_t k = 0; k < n && by_byte; k++)
            by_byte = ws_utf8_feed(&cut, rows[i].text + k, 1);
        ok(once == rows[i].is_valid && by_byte == once && (!once || ws_utf8_is_whole(&whole)),
           "UTF-8 row %zu", i);
    }
    struct ws_utf8 half = { 0 };
    CHECK(ws_utf8_feed(&half, "\xf0\x9f", 2) && !ws_utf8_is_whole(&half));
}

int
main(void)
{
    digests();
    keys();
    offers();
    utf8();
    return tap_done();
}
