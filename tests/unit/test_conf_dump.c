/* What is printed is read back as the same; help, reference and the sample file speak of every
 * key. */
#include "conf_load.h"

static char *
file_text(const char *path)
{
    static char text[64 * 1024];
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (f != NULL)
        fclose(f);
    text[n] = '\0';
    return text;
}

static bool
same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Compares fields, not what is printed of them. */
static bool
same_value(struct conf *a, struct conf *b, const struct key *k)
{
    switch (k->type) {
    case KEY_TEXT:
    case KEY_PATH:
        return same_text(*key_text(a, k), *key_text(b, k));
    case KEY_TEXTS:
    case KEY_PATHS: {
        struct conf_strings *x = key_texts(a, k), *y = key_texts(b, k);
        for (size_t i = 0; x->n == y->n && i < x->n; i++)
            if (strcmp(x->v[i], y->v[i]) != 0)
                return false;
        return x->n == y->n;
    }
    case KEY_BINDS:
        for (size_t i = 0; a->binds_n == b->binds_n && i < a->binds_n; i++) {
            struct conf_bind *x = &a->binds[i], *y = &b->binds[i];
            if (x->kind != y->kind || !same_text(x->text, y->text) ||
                !same_text(x->host, y->host) || !same_text(x->path, y->path) ||
                x->port != y->port || x->fd != y->fd)
                return false;
        }
        return a->binds_n == b->binds_n;
    case KEY_HEADERS:
        for (size_t i = 0; a->headers_n == b->headers_n && i < a->headers_n; i++)
            if (!same_text(a->headers[i].name, b->headers[i].name) ||
                !same_text(a->headers[i].value, b->headers[i].value))
                return false;
        return a->headers_n == b->headers_n;
    case KEY_STATICS:
        for (size_t i = 0; a->statics_n == b->statics_n && i < a->statics_n; i++) {
            const struct conf_static *x = &a->statics[i], *y = &b->statics[i];
            if (!same_text(x->route, y->route) || !same_text(x->dir, y->dir) ||
                !same_text(x->index, y->index) || x->expires_ms != y->expires_ms ||
                x->symlinks != y->symlinks || x->dotfiles != y->dotfiles ||
                x->precompressed != y->precompressed || x->fallthrough != y->fallthrough)
                return false;
        }
        return a->statics_n == b->statics_n;
    case KEY_SERVICES:
        for (size_t i = 0; a->services_n == b->services_n && i < a->services_n; i++) {
            const struct conf_service *x = &a->services[i], *y = &b->services[i];
            if (!same_text(x->name, y->name) || !same_text(x->run, y->run) ||
                x->scope != y->scope || x->restart != y->restart)
                return false;
        }
        return a->services_n == b->services_n;
    default:
        return key_number(a, k) == key_number(b, k);
    }
}

static void
round_trip(const char *name, const struct loaded *l)
{
    if (!ok(l->result == 0, "%s: loads", name)) {
        diag("%s", l->errors);
        return;
    }
    char *text = printed(l->conf);
    struct conf *again = NULL;
    if (ok(conf_load_text("printed", text, strlen(text), false, &again) == 0,
           "%s: what is printed loads", name)) {
        const char *differs = NULL;
        for (size_t i = 0; i < schema_n; i++)
            if (!same_value(l->conf, again, &schema[i]))
                differs = schema[i].name;
        ok(differs == NULL, "%s: the same comes back (%s)", name, differs ? differs : "all keys");
        char *second = printed(again);
        ok(strcmp(text, second) == 0, "%s: printed again, it is the same text", name);
        free(second);
    }
    conf_free(again);
    free(text);
}

static void
test_round_trip(void)
{
    round_trip("defaults", LOAD("a:b"));
    setenv("VIRTUAL_ENV", "/of/the/shell", 1);
    struct loaded *l = LOAD("a:b");
    round_trip("VIRTUAL_ENV", l);
    clearenv();
    round_trip("everything",
               LOAD("päckage.a:make()", "--factory", "--app-dir", "/tmp", "--python-path",
                    "x y,/z: w", "--interface", "asgi", "-b",
                    ":1,[::1]:2,unix:/a b#c,fd://3,systemd", "--uds-mode", "0600", "--uds-owner",
                    "a:b", "--backlog", "7", "-w", "auto", "--no-reuse-port", "--io", "epoll",
                    "--threads", "3", "-u", "no", "-g", "123", "--pid", "p: x", "-n",
                    "\"a\\b\" \xe2\x80\xa8 \xf0\x9f\x90\x8d \xc2\x85 \xef\xbb\xbf'", "--keep-alive",
                    "off", "--timeout-body", "0.5", "--timeout-send", "1ms", "--timeout-header",
                    "2h", "--graceful-timeout", "90", "--limit-body", "3MiB",
                    "--limits-header-size", "16385", "--root-path", "/a b", "--lifespan", "off"));
    round_trip("more", LOAD("a:b", "--http-lenient", "bare_lf,header_value", "--header", "A: 1",
                            "--header", "b:\t", "--header", "a: {x: [1, \"2\"]} # no", "--header",
                            "c: null", "--header", "null: ~", "--header", "Server: x",
                            "--no-date-header", "--log-level", "critical", "--log-file", "-",
                            "--access-logfile", "./a", "--venv", "v", "--import-first", "a.b,c",
                            "--python-options", "dev", "--python-options", "utf8=1",
                            "--hooks-post-fork", "a.b:c,d:e", "--service", "true=a:b"));
    round_trip("services",
               load_yaml_text("services:\n  bot: {run: a:b, scope: worker, restart: never}\n"
                              "  \"1.5\": {run: x.y:z, restart: on-failure}\n  null: a:b\n"));
    round_trip("words that YAML knows", LOAD("a:b", "--name", "null", "--user", "~", "--group",
                                             "true", "--header", "a: yes"));
    round_trip("nothing in lists",
               load_yaml_text("headers: {}\npython_path: []\nname: '- x'\nuser: '! y'\n"));
}

static void
test_every_key_is_told(void)
{
    char *help = NULL, *reference = NULL;
    size_t n;
    FILE *f = open_memstream(&help, &n);
    conf_print_help(f);
    fclose(f);
    f = open_memstream(&reference, &n);
    conf_print_reference(f);
    fclose(f);
    for (size_t i = 0; i < schema_n; i++) {
        char option[NAME_MAX_KEY], variable[NAME_MAX_KEY], cell[NAME_MAX_KEY];
        key_option(&schema[i], option, sizeof(option));
        key_variable(&schema[i], variable, sizeof(variable));
        snprintf(cell, sizeof(cell), "\n| `%s` |", schema[i].name);
        /* --access-log-enabled is a mouthful that --access-log stands for. */
        ok(schema[i].is_positional || schema[i].type == KEY_BOOL || strstr(help, option) != NULL,
           "help has %s", option);
        ok(strstr(reference, cell) != NULL && strstr(reference, variable) != NULL,
           "the reference has %s", schema[i].name);
    }
    for (size_t i = 0; i < cli_options_n; i++)
        ok(strstr(help, cli_options[i].name) != NULL, "help has %s", cli_options[i].name);
    size_t longest = 0;
    for (char *p = strtok(help, "\n"); p != NULL; p = strtok(NULL, "\n"))
        longest = strlen(p) > longest ? strlen(p) : longest;
    ok(longest <= 110, "help fits a terminal (%zu columns)", longest);
    unsigned pipes = 0, rows = 0;
    for (char *p = reference; *p != '\0'; p++) {
        pipes += *p == '|' && (p == reference || p[-1] != '\\');
        rows += *p == '\n';
    }
    ok(rows == schema_n + 2 && pipes == rows * 7, "the reference is a table of seven bars a row");
    free(help);
    free(reference);
}

/* Keys of a group stand together, or --print-config would open the group twice. */
static void
test_groups_stand_together(void)
{
    struct loaded *l = LOAD("a:b");
    char *text = printed(l->conf);
    for (size_t i = 0; i < schema_n; i++) {
        char line[NAME_MAX_KEY];
        size_t n = key_group_size(&schema[i]);
        const char *inner = memchr(schema[i].name, '.', n);
        size_t skip = inner != NULL ? (size_t)(inner + 1 - schema[i].name) : 0;
        snprintf(line, sizeof(line), "\n%s%.*s:\n", inner != NULL ? "  " : "", (int)(n - skip),
                 schema[i].name + skip);
        char *first = n > 0 ? strstr(text, line) : NULL;
        if (n > 0)
            ok(first != NULL && strstr(first + 1, line) == NULL, "%.*s: is there once", (int)n,
               schema[i].name);
    }
    free(text);
}

/* conf/ringcorn.yaml shows every key with its default; a setting without one is commented out as
 * `#key: ...`. */
static void
test_sample(const char *sample)
{
    struct loaded *l = load_yaml_text(sample);
    if (!ok(l->result == 0, "conf/ringcorn.yaml loads"))
        diag("%s", l->errors);
    struct loaded *defaults = LOAD("--check-config");
    for (size_t i = 0; i < schema_n && l->conf != NULL && defaults->conf != NULL; i++)
        ok(same_value(l->conf, defaults->conf, &schema[i]),
           "conf/ringcorn.yaml: %s has its default", schema[i].name);

    char *all = strdup(sample), *out = all;
    for (const char *p = sample; *p != '\0'; p++) {
        bool is_start = p == sample || p[-1] == '\n' || p[-1] == ' ';
        if (!(*p == '#' && is_start && p[1] != ' ' && p[1] != '\n'))
            *out++ = *p;
    }
    *out = '\0';
    struct load whole = { .conf = calloc(1, sizeof(struct conf)) };
    yaml_apply(&whole, SOURCE_YAML, "conf/ringcorn.yaml", all, strlen(all));
    ok(whole.errors == 0, "conf/ringcorn.yaml: what is commented out is right too");
    for (size_t i = 0; i < schema_n; i++)
        ok(whole.where[i].source == SOURCE_YAML, "conf/ringcorn.yaml has %s", schema[i].name);
    conf_free(whole.conf);
    free(all);
}

int
main(void)
{
    static char sample[64 * 1024];
    strcpy(sample, file_text("conf/ringcorn.yaml"));
    ok(strlen(sample) > 1000, "conf/ringcorn.yaml is there (run from the top folder)");
    char *django = strdup(file_text("conf/examples/django.yaml")),
         *fastapi = strdup(file_text("conf/examples/fastapi.yaml"));
    test_begin();
    test_round_trip();
    test_every_key_is_told();
    test_groups_stand_together();
    test_sample(sample);
    ok(*django != '\0' && load_yaml_text(django)->result == 0, "conf/examples/django.yaml loads");
    ok(*fastapi != '\0' && load_yaml_text(fastapi)->result == 0,
       "conf/examples/fastapi.yaml loads");
    free(django);
    free(fastapi);
    return test_end();
}
