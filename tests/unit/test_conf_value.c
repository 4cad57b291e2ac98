/* Every type of value: what is taken for what, and what is refused. */
#include "conf_load.h"

/* One key, its text in YAML, and the number it becomes; -1: refused. */
static const struct {
    const char *key, *text;
    int64_t want;
} numbers[] = {
    { "factory", "true", 1 },
    { "factory", "Yes", 1 },
    { "factory", "ON", 1 },
    { "factory", "no", 0 },
    { "factory", "off", 0 },
    { "factory", "False", 0 },
    { "factory", "maybe", -1 },
    { "factory", "2", -1 },

    { "backlog", "1", 1 },
    { "backlog", "65535", 65535 },
    { "backlog", "007", 7 },
    { "backlog", "0", -1 },
    { "backlog", "65536", -1 },
    { "backlog", "-1", -1 },
    { "backlog", "+1", -1 },
    { "backlog", "1.5", -1 },
    { "backlog", "0x10", -1 },
    { "backlog", "12 3", -1 },
    { "backlog", "1e3", -1 },
    { "backlog", "4294967297", -1 },
    { "backlog", "18446744073709551617", -1 },
    { "backlog", "auto", -1 },
    { "sync.threads", "auto", 0 },
    { "sync.threads", "AUTO", 0 },
    { "sync.threads", "0", -1 },
    { "sync.threads", "12", 12 },

    { "limits.body", "off", 0 },
    { "limits.body", "0", 0 },
    { "limits.body", "1", 1 },
    { "limits.body", "64KiB", 65536 },
    { "limits.body", "16MiB", 16 << 20 },
    { "limits.body", "3GiB", 3LL << 30 },
    { "limits.body", "2TiB", 2LL << 40 },
    { "limits.body", "9223372036854775807", INT64_MAX },
    { "limits.body", "9223372036854775808", -1 },
    { "limits.body", "8388608TiB", -1 },
    { "limits.body", "16777216TiB", -1 },
    { "limits.body", "64 KiB", -1 },
    { "limits.body", "64kb", -1 },
    { "limits.body", "64KB", -1 },
    { "limits.body", "1.5MiB", -1 },
    { "limits.body", "-1", -1 },
    { "limits.body", "KiB", -1 },
    { "limits.request_line", "off", -1 },
    { "limits.request_line", "63", -1 },
    { "limits.request_line", "64", 64 },
    { "limits.header_size", "16MiB", 16 << 20 },
    { "limits.header_size", "16777217", -1 },
    { "limits.connections", "10000000", 10000000 },
    { "limits.connections", "0", -1 },
    { "timeouts.body_rate", "1KiB", 1024 },
    { "timeouts.body_rate", "off", 0 },
    { "timeouts.body_rate", "2GiB", -1 },

    { "timeouts.send", "10", 10000 },
    { "timeouts.send", "0.5", 500 },
    { "timeouts.send", "0.001", 1 },
    { "timeouts.send", "1.500", 1500 },
    { "timeouts.send", "0.0005", -1 },
    { "timeouts.send", "0.1ms", -1 },
    { "timeouts.send", "2.0ms", 2 },
    { "timeouts.send", "500ms", 500 },
    { "timeouts.send", "30s", 30000 },
    { "timeouts.send", "1.5m", 90000 },
    { "timeouts.send", "24h", 86400000 },
    { "timeouts.send", "86401", -1 },
    { "timeouts.send", "off", 0 },
    { "timeouts.send", "0", 0 },
    { "timeouts.send", "-5", -1 },
    { "timeouts.send", "5.", -1 },
    { "timeouts.send", ".5", -1 },
    { "timeouts.send", "1.2.3", -1 },
    { "timeouts.send", "5 s", -1 },
    { "timeouts.send", "5sec", -1 },
    { "timeouts.send", "5S", -1 },
    { "timeouts.send", "inf", -1 },
    { "timeouts.send", "99999999999999999999s", -1 },
    { "timeouts.send", "0.99999999999999999999s", -1 },

    { "uds.mode", "0660", 0660 },
    { "uds.mode", "660", 0660 },
    { "uds.mode", "0o600", 0600 },
    { "uds.mode", "0", 0 },
    { "uds.mode", "777", 0777 },
    { "uds.mode", "1777", -1 },
    { "uds.mode", "0668", -1 },
    { "uds.mode", "rw", -1 },
    { "uds.mode", "0o", -1 },

    { "interface", "asgi", CONF_INTERFACE_ASGI },
    { "interface", "wsgi", CONF_INTERFACE_WSGI },
    { "interface", "cgi", -1 },
    { "sync.threads", "auto", 0 },
    { "sync.threads", "8", 8 },
    { "sync.threads", "0", -1 },
    { "sync.threads_max", "4096", 4096 },
    { "sync.threads_max", "auto", -1 },
    { "sync.affinity", "request", CONF_AFFINITY_REQUEST },
    { "sync.affinity", "Transaction", CONF_AFFINITY_TRANSACTION },
    { "sync.affinity", "call", CONF_AFFINITY_CALL },
    { "sync.affinity", "message", -1 },
    { "sync.websocket", "message", CONF_WS_LEASE_MESSAGE },
    { "sync.websocket", "call", CONF_WS_LEASE_CALL },
    { "sync.websocket", "connection", CONF_WS_LEASE_CONNECTION },
    { "sync.queue", "0", -1 },
    { "sync.queue_timeout", "off", 0 },
    { "sync.idle_timeout", "1.5s", 1500 },
    { "sync.park_close_db", "250ms", 250 },
    { "django.one_hop", "off", CONF_SWITCH_OFF },
    { "django.one_hop", "on", -1 },
    { "django.start_hop", "move", 1 },
    { "django.start_hop", "stock", 0 },
    { "anyio.threads", "auto", 0 },
    { "anyio.threads", "stock", 1 },
    { "io", "io_uring", CONF_IO_URING },
    { "io", "EPOLL", CONF_IO_EPOLL },
    { "io", "uvloop", -1 },
    { "lifespan", "off", CONF_LIFESPAN_OFF },
    { "lifespan", "false", -1 },
    { "log.level", "debug", LOG_DEBUG },
    { "log.level", "error", LOG_ERROR },
    { "log.level", "critical", LOG_ERROR },
    { "log.level", "fatal", -1 },
    { "http.lenient", "obs_fold", LENIENT_OBS_FOLD },
    { "http.lenient", "[bare_lf, header_value]", LENIENT_BARE_LF | LENIENT_HEADER_VALUE },
    { "http.lenient", "[]", 0 },
    { "http.lenient", "all", -1 },
};

/* Text: taken as it is, or refused for the reason given. */
static const struct {
    const char *key, *text, *refused;
} texts[] = {
    { "app", "main:app", NULL },
    { "app", "my.site.asgi:application.inner", NULL },
    { "app", "main:make()", NULL },
    { "app", "modüle:äpp", NULL },
    { "app", "main", "names a module only; write module:attribute" },
    { "app", "main.py:app",
      "is a file name; write module:attribute (and --app-dir for its folder)" },
    { "app", "src/main:app",
      "is a file name; write module:attribute (and --app-dir for its folder)" },
    { "app", "main:make(1)", "calls with arguments, which is not supported; write module:make()" },
    { "app", "main:", "is not of the form module:attribute" },
    { "app", ":app", "is not of the form module:attribute" },
    { "app", "a..b:app", "is not of the form module:attribute" },
    { "app", "1a:app", "is not of the form module:attribute" },
    { "app", "a-b:app", "is not of the form module:attribute" },
    { "app", "a:app ()", "is not of the form module:attribute" },
    { "user", "www-data", NULL },
    { "user", "", "is empty" },
    { "user", "a\\tb", "holds a control character" },
    { "user", "a\\nb", "holds a control character" },
    { "name", "a\\x7fb", "holds a control character" },
    { "name", "Größe \\u20ac \\U0001f40d", NULL },
    { "uds.owner", "app", NULL },
    { "uds.owner", "app:www-data", NULL },
    { "uds.owner", ":www-data", "is neither user nor user:group" },
    { "uds.owner", "app:", "is neither user nor user:group" },
    { "uds.owner", "a:b:c", "is neither user nor user:group" },
    { "root_path", "/api", NULL },
    { "root_path", "", NULL },
    { "root_path", "api", "is not a path like /api" },
    { "root_path", "/api?x", "is not a path like /api" },
    { "django.conn_max_age", "inherit", NULL },
    { "django.conn_max_age", "none", NULL },
    { "django.conn_max_age", "0", NULL },
    { "django.conn_max_age", "600", NULL },
    { "django.conn_max_age", "10m", "is neither inherit, none nor a number of seconds" },
    { "django.conn_max_age", "-1", "is neither inherit, none nor a number of seconds" },
    { "django.conn_max_age", "9999999999", "is neither inherit, none nor a number of seconds" },
    { "django.conn_max_age", "None", NULL }, /* as Django's settings spell it */
    { "import_first", "ddtrace.auto", NULL },
    { "import_first", "ddtrace-run", "is not a module's name" },
    { "pid_file", "/run/x.pid", NULL },
    { "pid_file", "", "is empty" },
};

/* "group.key" and text as YAML. */
static void
yaml_of(const char *key, const char *text, const char *quote, char *out, size_t size)
{
    const char *dot = strchr(key, '.');
    if (dot != NULL)
        snprintf(out, size, "%.*s:\n  %s: %s%s%s\n", (int)(dot - key), key, dot + 1, quote, text,
                 quote);
    else
        snprintf(out, size, "%s: %s%s%s\n", key, quote, text, quote);
}

static void
test_numbers(void)
{
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        char yaml[256];
        yaml_of(numbers[i].key, numbers[i].text, "", yaml, sizeof(yaml));
        struct loaded *l = load_yaml_text(yaml);
        const struct key *k = schema_by_name(numbers[i].key);
        if (numbers[i].want < 0)
            ok(l->result == -EXIT_CODE_USAGE && lines(l) == 1 &&
                   strstr(l->errors, numbers[i].text) != NULL,
               "%s: %s is refused", numbers[i].key, numbers[i].text);
        else
            ok(l->result == 0 && key_number(l->conf, k) == (uint64_t)numbers[i].want,
               "%s: %s is %lld", numbers[i].key, numbers[i].text, (long long)numbers[i].want);
    }
}

static void
test_texts(void)
{
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char yaml[256], line[256];
        yaml_of(texts[i].key, texts[i].text, "\"", yaml, sizeof(yaml));
        struct loaded *l = load_yaml_text(yaml);
        if (texts[i].refused == NULL) {
            ok(l->result == 0 && lines(l) == 0, "%s: \"%s\" is taken", texts[i].key, texts[i].text);
            continue;
        }
        snprintf(line, sizeof(line), " %s\n", texts[i].refused);
        ok(l->result == -EXIT_CODE_USAGE && lines(l) == 1 && strstr(l->errors, line) != NULL,
           "%s: \"%s\" %s", texts[i].key, texts[i].text, texts[i].refused);
    }
}

static void
test_headers(void)
{
    struct loaded *l =
        LOAD("a:b", "--header", "X-A:  one two\t", "--header", "x-b:", "--header", "x-a: 2");
    const struct conf *c = l->conf;
    if (!ok(l->result == 0 && c->headers_n == 3, "headers: repeated, empty and padded"))
        return;
    CHECK(strcmp(c->headers[0].name, "X-A") == 0 && strcmp(c->headers[0].value, "one two") == 0);
    CHECK(strcmp(c->headers[1].name, "X-A") == 0 && strcmp(c->headers[1].value, "2") == 0);
    CHECK(strcmp(c->headers[2].name, "x-b") == 0 && strcmp(c->headers[2].value, "") == 0);
    CHECK(has_line(LOAD("a:b", "--header", "nothing"),
                   "--header: 'nothing' is not a header; write 'Name: value'"));
    CHECK(has_line(LOAD("a:b", "--header", ": x"), "--header: '' is not a header's name"));
    CHECK(has_line(LOAD("a:b", "--header", "a b: x"), "--header: 'a b' is not a header's name"));
    CHECK(has_line(LOAD("a:b", "--header", "a\r: x"), "--header: 'a?' is not a header's name"));
    CHECK(has_line(LOAD("a:b", "--header", "a: x\r\ny: z"),
                   "--header: the value of a holds a control character"));
    CHECK(has_line(LOAD("a:b", "--header", "a: \xff"), "--header: the value of a is not UTF-8"));
    CHECK(has_line(LOAD("a:b", "--header", "transfer-Encoding: chunked"),
                   "--header: transfer-Encoding is the server's to send"));
    l = load_yaml_text("headers:\n  a: \"x\\0y\"\n");
    CHECK(l->result < 0 && has_line(l, "t.yaml:2: headers: holds a NUL byte"));
    l = load_yaml_text("headers:\n  X: [a, b]\n  Y: 1\n");
    CHECK(l->result == 0 && l->conf->headers_n == 3 && strcmp(l->conf->headers[1].value, "b") == 0);
}

static void
test_own_headers(void)
{
    struct loaded *l = LOAD("a:b", "--header", "server: mine");
    ok(l->result == 0 && !l->conf->server_header && l->conf->date_header,
       "a Server of one's own takes the place");
    l = LOAD("a:b", "--header", "server: mine", "--server-header");
    ok(has_line(l, "--header: Server is sent by the server too; set server_header to false"),
       "two Server headers are refused");
}

static void
test_lists(void)
{
    struct loaded *l =
        LOAD("a:b", "--python-path", "x,/y", "--python-path", "z", "--python-options", "dev");
    char wanted[128];
    if (ok(l->result == 0 && l->conf->python_path.n == 3, "lists: repeated and with commas")) {
        snprintf(wanted, sizeof(wanted), "%s/x", test_dir);
        CHECK(strcmp(l->conf->python_path.v[0], wanted) == 0);
        CHECK(strcmp(l->conf->python_path.v[1], "/y") == 0);
        CHECK(strcmp(l->conf->python_options.v[0], "dev") == 0);
    }
    char yaml[8 * 1024] = "import_first: [a";
    for (int i = 1; i < LIST_MAX; i++)
        strcat(yaml, ", a");
    size_t n = strlen(yaml);
    strcpy(yaml + n, "]\n");
    CHECK(load_yaml_text(yaml)->result == 0);
    strcpy(yaml + n, ", a]\n");
    CHECK(has_line(load_yaml_text(yaml), "t.yaml:1: import_first: has more than 256 entries"));
}

static void
test_paths(void)
{
    char wanted[128];
    struct loaded *l =
        LOAD("a:b", "--venv", "./v", "--log-file", "-", "--access-logfile", "a.log", "--pid", "/p");
    if (!ok(l->result == 0, "paths"))
        return;
    CHECK(strcmp(l->conf->app_dir, test_dir) == 0);
    snprintf(wanted, sizeof(wanted), "%s/v", test_dir);
    CHECK(strcmp(l->conf->venv, wanted) == 0);
    CHECK(l->conf->log_file == NULL);
    snprintf(wanted, sizeof(wanted), "%s/a.log", test_dir);
    CHECK(strcmp(l->conf->access_log_file, wanted) == 0);
    CHECK(strcmp(l->conf->pid_file, "/p") == 0);
    snprintf(wanted, sizeof(wanted), "--app-dir: %s/none: No such file or directory", test_dir);
    CHECK(has_line(LOAD("a:b", "--app-dir", "none"), wanted));
    CHECK(has_line(LOAD("a:b", "--app-dir", "/dev/null"), "--app-dir: /dev/null is not a folder"));
    CHECK(strcmp(LOAD("a:b", "--chdir", "/tmp")->conf->app_dir, "/tmp") == 0);
}

/* Numbers that do not fit their field would be cut in silence. */
static void
test_bounds_fit(void)
{
    for (size_t i = 0; i < schema_n; i++) {
        const struct key *k = &schema[i];
        if (k->type == KEY_COUNT || k->type == KEY_SIZE || k->type == KEY_DURATION)
            ok(k->max > k->min && (k->width == 8 || k->max <= UINT32_MAX), "%s: its bounds fit",
               k->name);
    }
}

int
main(void)
{
    test_begin();
    test_numbers();
    test_texts();
    test_headers();
    test_own_headers();
    test_lists();
    test_paths();
    test_bounds_fit();
    return test_end();
}
