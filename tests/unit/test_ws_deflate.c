/* permessage-deflate: there and back, windows kept and forgotten, bombs, memory. */
#include <zlib.h>

#include "tap.h"
#include "ws_frames.h"

enum { SIZE_MAX_HERE = 100000 };

static struct ws_shared shared;

/* A client's compressor; bits as the server told it. */
static void
client(z_stream *z, int bits)
{
    *z = (z_stream){ 0 };
    if (deflateInit2(z, 9, Z_DEFLATED, -bits, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        abort();
}

static size_t
squeeze(z_stream *z, const void *p, size_t n, char *out, size_t room)
{
    z->next_in = (Bytef *)(uintptr_t)p;
    z->avail_in = (uInt)n;
    z->next_out = (Bytef *)out;
    z->avail_out = (uInt)room;
    if (deflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in > 0)
        abort();
    return room - z->avail_out - 4;
}

static void
fresh(struct ws *ws, struct ws_agreed *agreed)
{
    *agreed = (struct ws_agreed){ .is_on = true, .server_bits = 12, .client_bits = 12 };
    ws_init(ws, &shared, agreed);
}

static char *
fill(char *p, size_t n, unsigned seed, unsigned spread)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1103515245 + 12345;
        p[i] = (char)('a' + (seed >> 16) % spread);
    }
    return p;
}

static void
in(void)
{
    struct ws ws;
    struct ws_agreed agreed;
    static char text[SIZE_MAX_HERE + 1], out[200000];
    struct buf b = { 0 }, got = { 0 };
    z_stream z;
    client(&z, 12);
    size_t n = squeeze(&z, "hello hello", 11, out, sizeof(out));
    put_frame(&b, 0xc1, out, n);
    n = squeeze(&z, "hello hello", 11, out, sizeof(out)); /* refers to the first */
    ok(n < 9, "the second is short: %zu bytes", n);
    put_frame(&b, 0x41, out, 2);
    put_frame(&b, 0x89, "p", 1);
    put_frame(&b, 0x80, out + 2, n - 2);
    put_frame(&b, 0x81, "as it is", 8);
    for (size_t cut = 0; cut < 3; cut++) {
        fresh(&ws, &agreed);
        got.n = 0;
        read_all(&ws, b.p, b.n, cut, &got);
        ok(strcmp(got.p, "text(11:hello hello) ping(1:p) text(11:hello hello) text(8:as it is) ") ==
               0,
           "cut %zu: %s", cut, got.p);
        CHECK(shared.compressors_bytes > 4096);
        ws_rest(&ws);
        ok(ws.inflate != NULL, "the window stays: the client may refer to it");
        ws_fini(&ws);
        CHECK(shared.compressors_bytes == 0);
    }
    deflateEnd(&z);

    static const struct {
        size_t n;
        unsigned spread;
        const char *wanted;
    } sizes[] = {
        { SIZE_MAX_HERE, 1, "bytes(100000:) " },
        { SIZE_MAX_HERE + 1, 1, "failed(1009) " },
        { SIZE_MAX_HERE, 26, "bytes(100000:) " },
        { SIZE_MAX_HERE + 1, 26, "failed(1009) " },
        { 0, 1, "bytes(0:) " },
    };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        client(&z, 12);
        n = squeeze(&z, fill(text, sizes[i].n, 1, sizes[i].spread), sizes[i].n, out, sizeof(out));
        deflateEnd(&z);
        b.n = got.n = 0;
        put_frame(&b, 0xc2, out, n);
        fresh(&ws, &agreed);
        read_all(&ws, b.p, b.n, 1000, &got);
        ok(strcmp(got.p, sizes[i].wanted) == 0, "%zu bytes, %zu on the wire: %s", sizes[i].n, n,
           got.p);
        ws_fini(&ws);
    }

    /* A block that says it is the last, then one more message with the same window. */
    client(&z, 12);
    z.next_in = (Bytef *)(uintptr_t)"hello";
    z.avail_in = 5;
    z.next_out = (Bytef *)out;
    z.avail_out = sizeof(out);
    CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
    n = sizeof(out) - z.avail_out;
    out[n++] = 0;
    b.n = got.n = 0;
    put_frame(&b, 0xc1, out, n);
    put_frame(&b, 0xc1, out, n);
    fresh(&ws, &agreed);
    read_all(&ws, b.p, b.n, 0, &got);
    ok(strcmp(got.p, "text(5:hello) text(5:hello) ") == 0, "last blocks: %s", got.p);
    ws_fini(&ws);
    deflateEnd(&z);

    b.n = got.n = 0;
    put_frame(&b, 0xc1, "\xff\xff\xff\xff", 4);
    fresh(&ws, &agreed);
    read_all(&ws, b.p, b.n, 0, &got);
    ok(strcmp(got.p, "failed(1007) ") == 0, "nonsense: %s", got.p);
    ws_fini(&ws);

    client(&z, 12);
    n = squeeze(&z, "ab\xff", 3, out, sizeof(out));
    deflateEnd(&z);
    b.n = got.n = 0;
    put_frame(&b, 0xc1, out, n);
    put_frame(&b, 0xc9, "", 0);
    fresh(&ws, &agreed);
    read_all(&ws, b.p, b.n, 0, &got);
    ok(strcmp(got.p, "failed(1007) ") == 0, "no text inside: %s", got.p);
    ws_fini(&ws);
    b.n = got.n = 0;
    put_frame(&b, 0xc9, "", 0);
    fresh(&ws, &agreed);
    read_all(&ws, b.p, b.n, 0, &got);
    ok(strcmp(got.p, "failed(1002) ") == 0, "a compressed ping: %s", got.p);
    ws_fini(&ws);
    buf_free(&b);
    buf_free(&got);
}

/* A bomb is let go as soon as it is known to be one: not even as much memory as a message may have. */
static void
bomb(void)
{
    struct ws ws;
    struct ws_agreed agreed;
    static char zeros[10 * 1000 * 1000], out[200000];
    struct buf b = { 0 }, got = { 0 };
    z_stream z;
    client(&z, 12);
    size_t n = squeeze(&z, zeros, sizeof(zeros), out, sizeof(out));
    deflateEnd(&z);
    put_frame(&b, 0xc2, out, n);
    fresh(&ws, &agreed);
    read_all(&ws, b.p, b.n, 0, &got);
    ok(strcmp(got.p, "failed(1009) ") == 0, "%zu bytes for ten million: %s", n, got.p);
    ok(ws.message != NULL && ws.message->cap <= SIZE_MAX_HERE, "%zu bytes were made room for",
       ws.message->cap);
    ws_fini(&ws);
    buf_free(&b);
    buf_free(&got);
}

static void
out_there_and_back(bool no_takeover, bool with_rest)
{
    struct ws ws;
    struct ws_agreed agreed;
    static char text[50000], back[60000];
    fresh(&ws, &agreed);
    ws.agreed.server_no_takeover = no_takeover;
    z_stream z = { 0 };
    if (inflateInit2(&z, -12) != Z_OK)
        abort();
    bool same = true;
    size_t first = 0, last = 0;
    for (unsigned i = 0; i < 20; i++) {
        size_t n = i % 4 == 3 ? sizeof(text) : 500;
        struct slice s;
        fill(text, n, i % 4 == 3 ? i : 7, 20);
        if (!ws_squeeze(&ws, text, n, &s)) {
            same = false;
            break;
        }
        if (i == 0)
            first = s.n;
        if (i == 1)
            last = s.n;
        z.next_in = (Bytef *)(uintptr_t)s.p;
        z.avail_in = (uInt)s.n;
        z.next_out = (Bytef *)back;
        z.avail_out = sizeof(back);
        int result = inflate(&z, Z_SYNC_FLUSH);
        z.next_in = (Bytef *)(uintptr_t)"\0\0\xff\xff";
        z.avail_in = 4;
        same = same && result == Z_OK && inflate(&z, Z_SYNC_FLUSH) == Z_OK &&
               sizeof(back) - z.avail_out == n && memcmp(back, text, n) == 0;
        if (no_takeover)
            inflateReset(&z);
        if (with_rest)
            ws_rest(&ws);
    }
    inflateEnd(&z);
    ok(same, "there and back%s%s", no_takeover ? ", no takeover" : "",
       with_rest ? ", resting" : "");
    ok(no_takeover || with_rest ? last >= first : last < first / 2, "%zu bytes, then %zu", first,
       last);
    ws_fini(&ws);
    CHECK(shared.compressors_bytes == 0);
}

static void
memory(void)
{
    struct ws a, b;
    struct ws_agreed agreed;
    struct slice s;
    fresh(&a, &agreed);
    fresh(&b, &agreed);
    shared.deflate.memory_max = 60000;
    CHECK(ws_squeeze(&a, "aaaaaaaaaaaaaaaaaaaa", 20, &s));
    ok(!ws_squeeze(&b, "aaaaaaaaaaaaaaaaaaaa", 20, &s),
       "no memory for a second compressor: sent as it is");
    ws_rest(&a);
    CHECK(shared.compressors_bytes == 0 && ws_squeeze(&b, "aaaaaaaaaaaaaaaaaaaa", 20, &s));
    shared.deflate.size_min = 21;
    ok(!ws_squeeze(&b, "aaaaaaaaaaaaaaaaaaaa", 20, &s), "too small");
    shared.deflate.size_min = 0;
    shared.deflate.memory_max = 0;
    ws_fini(&a);
    ws_fini(&b);
    CHECK(shared.compressors_bytes == 0);
}

int
main(void)
{
    shared.size_max = SIZE_MAX_HERE;
    shared.deflate =
        (struct ws_deflate_conf){ .is_on = true, .window_bits = 12, .mem_level = 5, .level = 6 };
    CHECK(ws_shared_init(&shared) == 0);
    in();
    bomb();
    out_there_and_back(false, false);
    out_there_and_back(true, false);
    out_there_and_back(false, true);
    memory();
    ws_shared_fini(&shared);
    return tap_done();
}
