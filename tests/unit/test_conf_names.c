/* Nearest names. */
#include "conf_load.h"

static void
test_nearest(void)
{
    static const char *const names[] = { "workers", "bind", "io", "timeouts.keep_alive" };
    static const struct {
        const char *text, *want;
    } cases[] = {
        { "workers", "workers" },
        { "wokers", "workers" },
        { "wrokers", "workers" },
        { "Workers", "workers" },
        { "worker", "workers" },
        { "wrks", NULL },
        { "bnid", "bind" },
        { "xy", NULL },
        { "o", NULL },
        { "", NULL },
        { "i", NULL },
        { "ii", "io" },
        { "timeout.keepalive", "timeouts.keep_alive" },
        { "timeouts.keep-alive", "timeouts.keep_alive" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *near = conf_nearest(cases[i].text, names, ARRAY_LEN(names));
        ok(near == cases[i].want || (near && cases[i].want && strcmp(near, cases[i].want) == 0),
           "'%s' -> %s", cases[i].text, cases[i].want ? cases[i].want : "nothing");
    }
    char long_text[1000];
    memset(long_text, 'w', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    CHECK(conf_nearest(long_text, names, ARRAY_LEN(names)) == NULL);
    CHECK(conf_nearest("workers", names, 0) == NULL);
}

/* One slip in any name leads back to it. */
static void
test_slips(void)
{
    for (size_t i = 0; i < schema_n; i++) {
        char text[NAME_MAX_KEY];
        if (strlen(schema[i].name) < 5)
            continue;
        snprintf(text, sizeof(text), "%sx", schema[i].name);
        const char *near = names_near_key(text);
        ok(near != NULL && strcmp(near, schema[i].name) == 0, "%s -> %s", text, schema[i].name);
        key_variable(&schema[i], text, sizeof(text));
        text[strlen(text) - 1] = 'X';
        near = names_near_variable(text);
        key_variable(&schema[i], text, sizeof(text));
        ok(near != NULL && strcmp(near, text) == 0, "near %s", text);
    }
}

/* Advice is for names that are not ours, and names only what is. */
static void
test_advice(void)
{
    CHECK(names_advice("ssl-certfile") != NULL && names_advice("SSL_CERTFILE") != NULL);
    CHECK(names_advice("frobnicate") == NULL && names_advice("") == NULL);
    CHECK(names_advice("D") != NULL && names_advice("d") == NULL);
    for (size_t i = 0; i < schema_n; i++)
        if (!schema[i].is_positional)
            ok(names_advice(schema[i].name) == NULL, "no advice against %s", schema[i].name);
}

int
main(void)
{
    test_nearest();
    test_slips();
    test_advice();
    return tap_done();
}
