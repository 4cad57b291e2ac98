/* The JSON writer: what Python's json module reads from it is what went in; here by bytes. */
#include <math.h>

#include "base/base.h"
#include "base/json.h"
#include "tap.h"

static void
is(struct buf *b, const char *want)
{
    ok(b->n == strlen(want) && memcmp(b->p, want, b->n) == 0, "%s (is %.*s)", want, (int)b->n,
       b->p);
    b->n = 0;
}

static void
test_shape(void)
{
    BUF_OWNED struct buf b = { 0 };
    struct json j = json_into(&b);
    json_begin(&j, '{');
    json_key(&j, "a"), json_int(&j, -5);
    json_key(&j, "b"), json_begin(&j, '['), json_end(&j, ']');
    json_key(&j, "c"), json_begin(&j, '[');
    json_bool(&j, true), json_bool(&j, false), json_null(&j), json_begin(&j, '{'),
        json_end(&j, '}');
    json_begin(&j, '['), json_int(&j, 1), json_end(&j, ']');
    json_end(&j, ']');
    json_key(&j, "d"), json_real(&j, 1.5);
    json_key(&j, "e"), json_real(&j, NAN);
    json_key(&j, "f"), json_raw(&j, SLICE("{\"x\":0}"));
    json_key(&j, "g"), json_string(&j, NULL);
    json_end(&j, '}');
    is(&b, "{\"a\":-5,\"b\":[],\"c\":[true,false,null,{},[1]],\"d\":1.500000,\"e\":null,\"f\":{"
           "\"x\":0},\"g\":null}");
    CHECK(!j.is_lost);
    j = json_into(&b);
    json_int(&j, INT64_MIN);
    is(&b, "-9223372036854775808");
}

static void
test_behind_other_bytes(void)
{
    BUF_OWNED struct buf b = { 0 };
    buf_puts(&b, "x");
    struct json j = json_into(&b);
    json_string(&j, "y");
    is(&b, "x\"y\"");
}

static void
test_text(void)
{
    static const struct {
        struct slice text;
        const char *want;
    } cases[] = {
        { SLICE(""), "\"\"" },
        { SLICE("plain"), "\"plain\"" },
        { SLICE("\"\\/"), "\"\\\"\\\\/\"" },
        { SLICE("\n\r\t\b\x1f\x7f"), "\"\\n\\r\\t\\u0008\\u001f\\u007f\"" },
        { SLICE("a\0b"), "\"a\\u0000b\"" },
        { SLICE("\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82"),
          "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82\"" },
        { SLICE("\xff\xfe"), "\"\\ufffd\\ufffd\"" },
        { SLICE("\xc3"), "\"\\ufffd\"" },
        { SLICE("\xe2\x82"), "\"\\ufffd\\ufffd\"" },
        { SLICE("\xc0\x80"), "\"\\ufffd\\ufffd\"" },                       /* longer than need be */
        { SLICE("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\"" },            /* a surrogate */
        { SLICE("\xf4\x90\x80\x80"), "\"\\ufffd\\ufffd\\ufffd\\ufffd\"" }, /* above U+10FFFF */
        { SLICE("\xf0\x80\x80\x80z"), "\"\\ufffd\\ufffd\\ufffd\\ufffdz\"" },
    };
    BUF_OWNED struct buf b = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json j = json_into(&b);
        json_text(&j, cases[i].text);
        is(&b, cases[i].want);
    }
}

int
main(void)
{
    test_shape();
    test_behind_other_bytes();
    test_text();
    return tap_done();
}
