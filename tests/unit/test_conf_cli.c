/* The command line, and which source wins. */
#include "conf_load.h"

/* Arguments behind "a:b", and the only line of error they give. */
static const struct {
    const char *args[3];
    const char *line;
} faults[] = {
    { { "--wokers", "3" }, "--wokers: no such option; did you mean --workers?" },
    { { "--wokers=3" }, "--wokers: no such option; did you mean --workers?" },
    { { "--no-acces-log" }, "--no-acces-log: no such option; did you mean --no-access-log?" },
    { { "--keepalive", "5" },
      "--keepalive: no such option; use timeouts.keep_alive (--keep-alive)" },
    { { "--frobnicate" }, "--frobnicate: no such option; ringcorn --help lists all" },
    { { "-x" }, "-x: no such option; ringcorn --help lists all" },
    { { "-D" },
      "-D: no such option; there is no daemon mode; let systemd, a container or a shell's & keep "
      "it running" },
    { { "-k", "uvicorn.workers.UvicornWorker" },
      "-k: no such option; there is one kind of worker, so leave it out; --threads is for "
      "synchronous code" },
    { { "--loop", "uvloop" },
      "--loop: no such option; io names how the loop waits: --io auto, io_uring or epoll" },
    { { "--preload-app" }, "--preload-app: no such option; use preload (--preload)" },
    { { "--ssl-version", "5" }, "--ssl-version: no such option; use tls.min_version: 1.2 or 1.3" },
    { { "--ssl-keyfile", "k.pem" }, "--ssl-keyfile: is of no use without tls.cert" },
    { { "--certfile=c.pem", "--keyfile=a,b" },
      "--keyfile: has 2 entries and tls.cert has 1; write the key of each certificate in the same "
      "order" },
    { { "--bind", "https://:8443" },
      "--bind: https://:8443 needs a certificate: set tls.cert and tls.key" },
    { { "--certfile=c.pem", "--cert-reqs=2" },
      "--cert-reqs: needs tls.client_ca, the authorities whose certificates are accepted" },
    { { "--limit-request-field_size", "1" },
      "--limit-request-field_size: no such option; use limits.header_size (--limit-header-size)" },
    { { "--app" },
      "--app: no such option; the application is the argument without a dash: ringcorn "
      "module:attribute" },
    { { "c:d" }, "c:d: is one argument too many; the application is a:b" },
    { { "-w" }, "-w: needs a value: -w VALUE" },
    { { "--workers", "--factory" }, "--workers: needs a value: --workers VALUE" },
    { { "--config" }, "--config: needs a value: --config FILE" },
    { { "-w", "x" }, "-w: 'x' is wrong; expected auto or 1 to 1024" },
    { { "--workers", "-3" }, "--workers: '-3' is wrong; expected auto or 1 to 1024" },
    { { "--no-access-log=1" }, "--no-access-log: takes no value" },
    { { "--check-config=1" }, "--check-config: takes no value" },
    { { "--no-workers" }, "--no-workers: no such option; did you mean --workers?" },
    { { "--env-file", "none.env" }, "--env-file: cannot read none.env: No such file or directory" },
    { { "--http-lenient", "bare_lf,x" },
      "--http-lenient: 'x' is wrong; expected a list of bare_lf, obs_fold or header_value" },
    { { "--name", "a\x1b[31m" }, "--name: 'a?[31m' holds a control character" },
    { { "--name", "a\xff" }, "--name: 'a\xff' is not UTF-8" },
};

static void
test_faults(void)
{
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct loaded *l = LOAD("a:b", faults[i].args[0], faults[i].args[1], faults[i].args[2]);
        if (!ok(l->result < 0 && l->conf == NULL && lines(l) == 1 && has_line(l, faults[i].line),
                "%s", faults[i].line))
            diag("got: %s", l->errors);
    }
    struct loaded *l = LOAD();
    CHECK(l->result == -EXIT_CODE_USAGE && (int)l->action == -1 && lines(l) == 1 &&
          has_line(l,
                   "no application: run `ringcorn module:attribute`, or set app in ringcorn.yaml"));
    CHECK(lines(LOAD("--a", "--b", "-w", "0", "--io=x")) == 4);
    char option[512] = "--";
    memset(option + 2, 'x', sizeof(option) - 3);
    CHECK(lines(LOAD("a:b", option)) == 1);
}

static void
test_forms(void)
{
    CHECK(LOAD("a:b", "-w4")->conf->workers == 4);
    CHECK(LOAD("-w", "4", "a:b")->conf->workers == 4);
    CHECK(LOAD("-w=4", "a:b")->conf->workers == 4);
    CHECK(LOAD("a:b", "--workers=4")->conf->workers == 4);
    CHECK(LOAD("a:b", "--workers", "4", "-w", "5")->conf->workers == 5);
    CHECK(strcmp(LOAD("--factory", "--", "a:b")->conf->app, "a:b") == 0);
    CHECK(has_line(LOAD("--", "--factory"),
                   "application: '--factory' names a module only; write module:attribute"));
    CHECK(LOAD("a:b", "--factory")->conf->factory);
    CHECK(!LOAD("a:b", "--factory", "--no-factory")->conf->factory);
    CHECK(!LOAD("a:b", "--factory=off")->conf->factory);
    CHECK(LOAD("a:b", "--access-log")->conf->access_log);
    CHECK(LOAD("a:b", "--access-log-enabled")->conf->access_log);
    CHECK(!LOAD("a:b", "--no-access-log")->conf->access_log);
    CHECK(LOAD("a:b", "--access-logfile", "-")->conf->access_log);
    CHECK(!LOAD("a:b", "--access-logfile", "-", "--no-access-log")->conf->access_log);
    CHECK(strcmp(LOAD("a:b", "--name=--x")->conf->name, "--x") == 0);
    CHECK(LOAD("a:b", "--timeout-graceful-shutdown", "3")->conf->timeout_graceful_ms == 3000);
    CHECK(LOAD("a:b", "--worker-connections", "3")->conf->limit_connections == 3);
    CHECK(LOAD("a:b", "-w", "auto")->conf->workers == conf_cpus());
    CHECK(strcmp(LOAD("a:b", "--root-path", "/api//")->conf->root_path, "/api") == 0);
    CHECK(strcmp(LOAD("a:b", "--root-path", "/")->conf->root_path, "") == 0);
}

static void
test_actions(void)
{
    CHECK(LOAD("a:b")->action == CONF_RUN);
    CHECK(LOAD("--check-config")->action == CONF_CHECK);
    struct loaded *l = LOAD("--print-config", "-w", "2");
    CHECK(l->action == CONF_PRINT && l->conf->workers == 2);
    static const struct {
        const char *option;
        enum conf_action action;
    } bare[] = {
        { "--help", CONF_HELP },
        { "-h", CONF_HELP },
        { "--version", CONF_VERSION },
        { "--config-reference", CONF_REFERENCE },
    };
    for (size_t i = 0; i < ARRAY_LEN(bare); i++) {
        l = LOAD("--wrong", bare[i].option, "-c", "none.yaml");
        ok(l->result == 0 && l->action == bare[i].action && l->conf == NULL && lines(l) == 0,
           "%s asks for nothing else to be right", bare[i].option);
    }
    CHECK(LOAD("a:b", "--", "--help")->result < 0);
    CHECK(LOAD("--check-config", "-w", "x")->result == -EXIT_CODE_USAGE);
}

/* Every option of every key is found, and no two keys share one. */
static void
test_options_are_unique(void)
{
    for (size_t i = 0; i < schema_n; i++) {
        char own[NAME_MAX_KEY], all[256];
        bool is_no;
        key_option(&schema[i], own, sizeof(own));
        snprintf(all, sizeof(all), "%s %s", schema[i].is_positional ? "" : own,
                 schema[i].options ? schema[i].options : "");
        for (char *p = strtok(all, " "); p != NULL; p = strtok(NULL, " "))
            ok(schema_by_option(p, &is_no) == &schema[i] && !is_no, "%s is %s", p, schema[i].name);
    }
}

static void
test_precedence(void)
{
    write_file(
        "ringcorn.yaml",
        "workers: 2\nbind: [\":2\", \":22\"]\nheaders: {a: y}\nhttp: {lenient: [bare_lf]}\n");
    write_file("e.env", "RINGCORN_WORKERS=3\n");
    struct loaded *l = LOAD("a:b");
    CHECK(l->conf->workers == 2 && l->conf->binds_n == 2 && l->conf->headers_n == 1);
    CHECK(LOAD("a:b", "--env-file", "e.env")->conf->workers == 3);
    setenv("WEB_CONCURRENCY", "9", 1);
    setenv("PORT", "9", 1);
    l = LOAD("a:b");
    CHECK(l->conf->workers == 2 && l->conf->binds_n == 2);
    setenv("RINGCORN_WORKERS", "4", 1);
    setenv("RINGCORN_BIND", ":4", 1);
    l = LOAD("a:b", "--env-file", "e.env");
    CHECK(l->conf->workers == 4 && l->conf->binds_n == 1 && l->conf->binds[0].port == 4);
    l = LOAD("a:b", "-w", "5", "-b", ":5", "-b", ":55", "--header", "b: c", "--http-lenient",
             "obs_fold");
    CHECK(l->conf->workers == 5 && l->conf->binds_n == 2 && l->conf->binds[1].port == 55);
    CHECK(l->conf->headers_n == 1 && strcmp(l->conf->headers[0].name, "b") == 0);
    CHECK(l->conf->http_lenient == LENIENT_OBS_FOLD);
    l = LOAD("a:b", "--port", "6");
    CHECK(l->conf->binds_n == 1 && l->conf->binds[0].port == 6);
    /* A fault in a weaker source stays one. */
    write_file("ringcorn.yaml", "workers: x\n");
    CHECK(LOAD("a:b", "-w", "5")->result == -EXIT_CODE_USAGE);
    unlink("ringcorn.yaml");
    clearenv();
}

static bool
trusts(const struct loaded *l, const char *list)
{
    char text[256] = "";
    for (size_t i = 0; l->result == 0 && i < l->conf->proxy_trusted.n; i++) {
        strcat(text, i > 0 ? "," : "");
        strcat(text, l->conf->proxy_trusted.v[i]);
    }
    return l->result == 0 && strcmp(text, list) == 0;
}

/* uvicorn's flag, gunicorn's words, and the lists of both. */
static void
test_proxies(void)
{
    const unsigned usual = PROXY_X_FOR | PROXY_X_PROTO;
    const unsigned both = PROXY_PROTOCOL_V1 | PROXY_PROTOCOL_V2;
    struct loaded *l = LOAD("a:b");
    CHECK(l->result == 0 && l->conf->proxy_headers == usual && l->conf->proxy_protocol == 0);
    CHECK(trusts(l, "127.0.0.1,::1,unix"));
    CHECK((l = LOAD("--proxy-headers", "a:b"))->result == 0 && l->conf->proxy_headers == usual);
    CHECK((l = LOAD("a:b", "--proxy-headers"))->result == 0 && l->conf->proxy_headers == usual);
    CHECK((l = LOAD("--no-proxy-headers", "a:b"))->result == 0 && l->conf->proxy_headers == 0);
    CHECK((l = LOAD("a:b", "--proxy-headers", "none"))->result == 0 && l->conf->proxy_headers == 0);
    CHECK((l = LOAD("--proxy-headers", "forwarded, X-Real-IP", "a:b"))->result == 0 &&
          l->conf->proxy_headers == (PROXY_FORWARDED | PROXY_X_REAL_IP));
    CHECK((l = LOAD("a:b", "--proxy-headers=Forwarded"))->result == 0 &&
          l->conf->proxy_headers == PROXY_FORWARDED);
    CHECK((l = LOAD("--proxy-protocol", "a:b"))->result == 0 && l->conf->proxy_protocol == both);
    CHECK((l = LOAD("--proxy-protocol", "v2", "a:b"))->result == 0 &&
          l->conf->proxy_protocol == PROXY_PROTOCOL_V2);
    CHECK((l = LOAD("--no-proxy-protocol", "a:b"))->result == 0 && l->conf->proxy_protocol == 0);
    CHECK(has_line(LOAD("a:b", "--no-proxy-protocol=v1"), "--no-proxy-protocol: takes no value"));
    CHECK(has_line(LOAD("a:b", "--proxy-headers=X-Forwarded-Fort"),
                   "--proxy-headers: 'X-Forwarded-Fort' is wrong; did you mean X-Forwarded-For? "
                   "(none, or a list of X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, "
                   "X-Forwarded-Port, X-Forwarded-Prefix, Forwarded or X-Real-IP)"));
    CHECK(trusts(LOAD("a:b", "--forwarded-allow-ips", "10.0.0.0/8, fd00::/8"),
                 "10.0.0.0/8,fd00::/8"));
    CHECK(trusts(LOAD("a:b", "--proxy-allow-from", "*"), "*"));
    CHECK(has_line(LOAD("a:b", "--forwarded-allow-ips", "proxy.local"),
                   "--forwarded-allow-ips: 'proxy.local' is neither an address, a network "
                   "(10.0.0.0/8), unix nor *"));
    setenv("FORWARDED_ALLOW_IPS", "*", 1);
    CHECK(trusts(LOAD("a:b"), "*"));
    CHECK(trusts(LOAD("a:b", "--forwarded-allow-ips", "::1"), "::1"));
    setenv("FORWARDED_ALLOW_IPS", "127.0.0.1,10.0.0.1", 1);
    CHECK(trusts(LOAD("a:b"), "127.0.0.1,10.0.0.1"));
    unsetenv("FORWARDED_ALLOW_IPS");
}

int
main(void)
{
    test_begin();
    test_faults();
    test_forms();
    test_actions();
    test_options_are_unique();
    test_precedence();
    test_proxies();
    return test_end();
}
