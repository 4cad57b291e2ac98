/* JSON that is read. */
#include <string.h>
#include <errno.h>

#include "base/base.h"
#include "conf/json_doc.h"
#include "tap.h"

static bool
text_is(struct json_ref ref, const char *want)
{
    const char *text = json_ref_text(ref);
    return want == NULL ? text == NULL : text != NULL && strcmp(text, want) == 0;
}

static void
test_values(void)
{
    static const char text[] = "{\"a\":5,\"b\":[true,null,\"x\\n\\u00e4\",-1.5e3,\"\"],\"c\":{},"
                               "\"d\":\"null\",\"e\":\"7\",\"f\":1e3}";
    char why[160];
    int64_t n = 0;
    JSON_DOC_OWNED struct json_doc doc = { 0 };
    CHECK(json_doc_parse(&doc, text, strlen(text), why, sizeof(why)) == 0);
    struct json_ref root = json_doc_root(&doc), b = json_ref_get(root, "b");
    CHECK(json_ref_is_object(root) && json_ref_n(root) == 6);
    CHECK(strcmp(json_ref_name(root, 1), "b") == 0 && json_ref_name(root, 6) == NULL);
    CHECK(json_ref_int(json_ref_get(root, "a"), &n) && n == 5);
    CHECK(json_ref_is_array(b) && json_ref_n(b) == 5 && json_ref_name(b, 0) == NULL);
    CHECK(text_is(json_ref_at(b, 0), "true"));
    CHECK(text_is(json_ref_at(b, 1), NULL));
    CHECK(text_is(json_ref_at(b, 2), "x\n\xc3\xa4"));
    CHECK(text_is(json_ref_at(b, 3), "-1.5e3"));
    CHECK(text_is(json_ref_at(b, 4), ""));
    CHECK(json_ref_at(b, 5).node == NULL);
    CHECK(json_ref_is_object(json_ref_get(root, "c")) && json_ref_n(json_ref_get(root, "c")) == 0);
    CHECK(text_is(json_ref_get(root, "d"), "null")); /* in quotes it is a text */
    CHECK(json_ref_get(root, "g").node == NULL && text_is(json_ref_get(root, "g"), NULL));
    CHECK(!json_ref_int(json_ref_get(root, "f"), &n) &&
          !json_ref_int(json_ref_get(root, "c"), &n) && !json_ref_int(json_ref_at(b, 4), &n));
    /* What is nothing has nothing. */
    struct json_ref none = { &doc, NULL };
    CHECK(json_ref_n(none) == 0 && json_ref_at(none, 0).node == NULL && !json_ref_is_object(none));
}

static void
test_faults(void)
{
    static const char *const texts[] = { "{",       "[1,2",       "{\"a\":}x",
                                         "\"\\q\"", "{\"a\":1}}", "\xff\xfe\xfd" };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char why[160] = "";
        JSON_DOC_OWNED struct json_doc doc = { 0 };
        ok(json_doc_parse(&doc, texts[i], strlen(texts[i]), why, sizeof(why)) == -EINVAL &&
               why[0] != '\0',
           "%s: %s", texts[i], why);
    }
    char why[160];
    JSON_DOC_OWNED struct json_doc doc = { 0 };
    CHECK(json_doc_parse(&doc, "", 0, why, sizeof(why)) == 0 && json_doc_root(&doc).node == NULL);
}

static void
test_tame(void)
{
    static const char text[] = "{\"a\\u001b\": [\"\\u001b[31m\\r\\u009bx\\u007f\", "
                               "\"\\u00a0\\u00e4\", \"1\\n\\t2\", null]}";
    for (int has_lines = 0; has_lines < 2; has_lines++) {
        char why[160] = "";
        JSON_DOC_OWNED struct json_doc doc = { 0 };
        json_doc_tame(&doc, has_lines);
        CHECK(json_doc_parse(&doc, text, strlen(text), why, sizeof(why)) == 0);
        json_doc_tame(&doc, has_lines);
        struct json_ref list = json_ref_get(json_doc_root(&doc), "a?");
        CHECK(text_is(json_ref_at(list, 0), "?[31m???x?"));
        CHECK(text_is(json_ref_at(list, 1), "\u00a0\u00e4"));
        CHECK(text_is(json_ref_at(list, 2), has_lines ? "1\n\t2" : "1  2"));
        CHECK(text_is(json_ref_at(list, 3), NULL));
    }
}

int
main(void)
{
    test_values();
    test_tame();
    test_faults();
    return tap_done();
}
