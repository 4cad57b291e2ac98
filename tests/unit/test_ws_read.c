/* Frames in: what the rules of RFC 6455 make of them, however they are cut up. */
#include "tap.h"
#include "ws_frames.h"

static struct ws_shared shared;

static void
expect(const struct buf *frames, const char *wanted, const char *what)
{
    static const size_t cuts[] = { 0, 1, 2, 3, 7, 4096, 4097 };
    struct ws_agreed none = { 0 };
    bool same = true;
    struct buf got = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
        struct ws ws;
        ws_init(&ws, &shared, &none);
        got.n = 0;
        read_all(&ws, frames->p, frames->n, cuts[i], &got);
        while (got.n > 0 && got.p[got.n - 1] == ' ')
            got.p[--got.n] = '\0';
        if (strcmp(got.p, wanted) != 0) {
            same = false;
            diag("%s, cut at %zu: %s", what, cuts[i], got.p);
        }
        ws_fini(&ws);
    }
    ok(same, "%s: %s", what, wanted);
    buf_free(&got);
}

#define TEXT "\x48\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80" /* one, two, three and four bytes */

static void
messages(void)
{
    struct buf b = { 0 };
    static char big[200000];
    memset(big, 'x', sizeof(big));
#define ROW(wanted, what)                                                                          \
    expect(&b, wanted, what);                                                                      \
    b.n = 0
    put_frame(&b, 0x81, "hello", 5);
    ROW("text(5:hello)", "a text");
    put_frame(&b, 0x82, "\x01\xff", 2);
    ROW("bytes(2:\x01\xff)", "bytes that are no text");
    put_frame(&b, 0x81, "", 0);
    put_frame(&b, 0x82, "", 0);
    ROW("text(0:) bytes(0:)", "empty messages");
    put_frame(&b, 0x01, "hel", 3);
    put_frame(&b, 0x89, "now", 3);
    put_frame(&b, 0x00, "", 0);
    put_frame(&b, 0x8a, "", 0);
    put_frame(&b, 0x80, "lo", 2);
    put_frame(&b, 0x81, "next", 4);
    ROW("ping(3:now) pong(0:) text(5:hello) text(4:next)", "control frames between fragments");
    put_frame(&b, 0x82, big, 125);
    put_frame(&b, 0x82, big, 126);
    put_frame(&b, 0x82, big, 65535);
    put_frame(&b, 0x82, big, 65536);
    put_frame(&b, 0x82, big, 200000);
    ROW("bytes(125:) bytes(126:) bytes(65535:) bytes(65536:) bytes(200000:)",
        "lengths of each form");
    put_frame(&b, 0x81, TEXT, 10);
    ROW("text(10:" TEXT ")", "characters of every length");
    for (unsigned i = 0; i < 10; i++)
        put_frame(&b, i == 0 ? 0x01 : i == 9 ? 0x80 : 0x00, TEXT + i, 1);
    ROW("text(10:" TEXT ")", "characters cut by frames");
    put_frame(&b, 0x89, big, 125);
    ROW("ping(125:)", "the longest ping");
    buf_free(&b);
}

static void
refusals(void)
{
    struct buf b = { 0 };
    static char big[200000];
    buf_append(&b, "\x81\x05hello", 7);
    ROW("failed(1002)", "a frame without a mask");
    buf_append(&b, "\x89\xfe\x00\x7e", 4);
    ROW("failed(1002)", "a ping of 126 bytes");
    put_frame(&b, 0x09, "", 0);
    ROW("failed(1002)", "a ping in fragments");
    put_frame(&b, 0xc1, "hello", 5);
    ROW("failed(1002)", "RSV1 without an extension");
    put_frame(&b, 0xa1, "hello", 5);
    ROW("failed(1002)", "RSV2");
    put_frame(&b, 0x91, "hello", 5);
    ROW("failed(1002)", "RSV3");
    put_frame(&b, 0x83, "hello", 5);
    ROW("failed(1002)", "opcode 3");
    put_frame(&b, 0x8b, "", 0);
    ROW("failed(1002)", "opcode 11");
    put_frame(&b, 0x80, "hello", 5);
    ROW("failed(1002)", "a continuation of nothing");
    put_frame(&b, 0x01, "hel", 3);
    put_frame(&b, 0x81, "lo", 2);
    ROW("failed(1002)", "a message within a message");
    buf_append(&b, "\x82\xfe\x00\x05\0\0\0\0hello", 13);
    ROW("failed(1002)", "a length of five in two bytes");
    buf_append(&b, "\x82\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 14);
    ROW("failed(1002)", "a length of 65535 in eight bytes");
    buf_append(&b, "\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 14);
    ROW("failed(1002)", "a length with its highest bit");
    put_frame(&b, 0x81, "ab\xff", 3);
    ROW("failed(1007)", "text that is none");
    put_frame(&b, 0x01, "ab\xed\xa0", 4);
    ROW("failed(1007)", "a surrogate, before the message's end");
    put_frame(&b, 0x81, "ab\xe2\x82", 4);
    ROW("failed(1007)", "text that ends in a character");
    put_frame(&b, 0x82, big, 200000);
    put_frame(&b, 0x02, big, 150000);
    put_frame(&b, 0x80, big, 50001);
    ROW("bytes(200000:) failed(1009)", "fragments that are too much together");
    buf_append(&b, "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0x", 15);
    ROW("failed(1009)", "the longest length there is");
    buf_free(&b);
}

static void
closes(void)
{
    struct buf b = { 0 };
    put_frame(&b, 0x88, "", 0);
    put_frame(&b, 0x81, "late", 4);
    ROW("closed(1005:)", "a Close without a code, and what comes behind");
    put_frame(&b, 0x88, "\x03\xe8", 2);
    ROW("closed(1000:)", "1000");
    put_frame(&b, 0x88, "\x0f\xa0gone", 6);
    ROW("closed(4000:gone)", "4000 with a reason");
    put_frame(&b, 0x88, "\x03", 1);
    ROW("failed(1002)", "half a code");
    put_frame(&b, 0x88, "\x03\xe8\xff", 3);
    ROW("failed(1007)", "a reason that is no text");
    static const unsigned bad[] = { 0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535 };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char payload[2] = { (char)(bad[i] >> 8), (char)bad[i] }, what[32];
        snprintf(what, sizeof(what), "code %u", bad[i]);
        put_frame(&b, 0x88, payload, 2);
        ROW("failed(1002)", what);
    }
    buf_free(&b);
}

/* An idle WebSocket has given its parser back; one in the middle of a frame has it. */
static void
parsers(void)
{
    struct buf b = { 0 }, out = { 0 };
    struct ws_agreed none = { 0 };
    struct ws ws;
    ws_init(&ws, &shared, &none);
    put_frame(&b, 0x81, "hello", 5);
    CHECK(ws.frame == NULL);
    read_all(&ws, b.p, 4, 0, &out);
    CHECK(ws.frame != NULL);
    read_all(&ws, b.p + 4, b.n - 4, 0, &out);
    CHECK(ws.frame == NULL && strcmp(out.p, "text(5:hello) ") == 0);
    put_frame(&b, 0x01, "abc", 3);
    read_all(&ws, b.p + 11, b.n - 11, 0, &out);
    CHECK(ws.frame == NULL && ws.in_message);
    ws_fini(&ws);
    buf_free(&b);
    buf_free(&out);
}

static void
heads(void)
{
    static const struct {
        uint64_t n;
        const char *head;
        size_t head_n;
    } rows[] = {
        { 0, "\x82\x00", 2 },
        { 125, "\x82\x7d", 2 },
        { 126, "\x82\x7e\x00\x7e", 4 },
        { 65535, "\x82\x7e\xff\xff", 4 },
        { 65536, "\x82\x7f\0\0\0\0\0\x01\0\0", 10 },
        { (uint64_t)1 << 40, "\x82\x7f\0\0\x01\0\0\0\0\0", 10 },
    };
    char out[WS_HEAD_MAX], payload[WS_CONTROL_MAX], text[200];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = ws_head(&shared, out, WS_BINARY, false, rows[i].n);
        ok(n == rows[i].head_n && memcmp(out, rows[i].head, n) == 0, "head of %llu bytes",
           (unsigned long long)rows[i].n);
    }
    CHECK(ws_head(&shared, out, WS_TEXT, true, 5) == 2 && memcmp(out, "\xc1\x05", 2) == 0);
    CHECK(ws_head(&shared, out, WS_KIND_PONG, false, 125) == 2 && memcmp(out, "\x8a\x7d", 2) == 0);
    CHECK(ws_close_payload(payload, WS_NO_CODE, SLICE("x")) == 0);
    CHECK(ws_close_payload(payload, 1001, SLICE("bye")) == 5 && memcmp(payload,
                                                                       "\x03\xe9"
                                                                       "bye",
                                                                       5) == 0);
    for (size_t i = 0; i + 1 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    CHECK(ws_close_payload(payload, 1001, (struct slice){ text, 123 }) == 125);
    /* not within a character */
    CHECK(ws_close_payload(payload, 1001, (struct slice){ text, 200 }) == 124);
}

int
main(void)
{
    shared.size_max = 200000;
    CHECK(ws_shared_init(&shared) == 0);
    messages();
    refusals();
    closes();
    parsers();
    heads();
    CHECK(shared.compressors_bytes == 0);
    ws_shared_fini(&shared);
    return tap_done();
}
