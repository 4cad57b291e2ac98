/* The environment and the env file. */
#include "conf_load.h"

static void
test_variables(void)
{
    setenv("RINGCORN_TIMEOUTS_KEEP_ALIVE", "5s", 1);
    setenv("RINGCORN_BIND", ":1, unix:/x", 1);
    setenv("RINGCORN_ACCESS_LOG_ENABLED", "1", 1);
    setenv("RINGCORN_HEADERS", "A: 1, 2\nB: 3\n", 1);
    setenv("RINGCORN_APP", "m:app", 1);
    setenv("RINGCORN_LOG_LEVEL", "", 1);
    setenv("OTHER", "x", 1);
    struct loaded *l = LOAD();
    if (ok(l->result == 0, "variables are taken")) {
        CHECK(l->conf->timeout_keep_alive_ms == 5000);
        CHECK(l->conf->binds_n == 2 && l->conf->binds[0].port == 1 &&
              strcmp(l->conf->binds[1].path, "/x") == 0);
        CHECK(l->conf->access_log);
        CHECK(l->conf->headers_n == 2 && strcmp(l->conf->headers[0].value, "1, 2") == 0);
        CHECK(strcmp(l->conf->app, "m:app") == 0);
        CHECK(l->conf->log_level == LOG_INFO);
    }
    clearenv();
    static const struct {
        const char *name, *value, *line;
    } faults[] = {
        { "RINGCORN_WORKRES", "3",
          "RINGCORN_WORKRES: no such variable; did you mean RINGCORN_WORKERS?" },
        { "RINGCORN_workers", "3",
          "RINGCORN_workers: no such variable; did you mean RINGCORN_WORKERS?" },
        { "RINGCORN_FROBNICATE", "3",
          "RINGCORN_FROBNICATE: no such variable; ringcorn --config-reference lists all keys" },
        { "RINGCORN_", "3",
          "RINGCORN_: no such variable; ringcorn --config-reference lists all keys" },
        { "RINGCORN_PRELOAD_APP", "1",
          "RINGCORN_PRELOAD_APP: no such variable; use preload (--preload)" },
        { "RINGCORN_CONFIG", "x",
          "RINGCORN_CONFIG: no such variable; the file is named on the command line: -c FILE" },
        { "RINGCORN_WORKERS", "x", "RINGCORN_WORKERS: 'x' is wrong; expected auto or 1 to 1024" },
        { "PORT", "x", "PORT: 'x' is not a port from 0 to 65535" },
        { "WEB_CONCURRENCY", "0",
          "WEB_CONCURRENCY: '0' is out of range; expected auto or 1 to 1024" },
    };
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        setenv(faults[i].name, faults[i].value, 1);
        l = LOAD("a:b");
        if (!ok(l->result == -EXIT_CODE_USAGE && lines(l) == 1 && has_line(l, faults[i].line), "%s",
                faults[i].line))
            diag("got: %s", l->errors);
        clearenv();
    }
}

static void
test_fallbacks(void)
{
    setenv("WEB_CONCURRENCY", "3", 1);
    setenv("PORT", "5000", 1);
    setenv("VIRTUAL_ENV", "/v", 1);
    struct loaded *l = LOAD("a:b");
    CHECK(l->result == 0 && l->conf->workers == 3);
    CHECK(l->conf->binds_n == 1 && strcmp(l->conf->binds[0].text, "0.0.0.0:5000") == 0);
    CHECK(strcmp(l->conf->venv, "/v") == 0);
    l = LOAD("a:b", "-w1", "-b", ":1", "--venv", "/w");
    CHECK(l->conf->workers == 1 && l->conf->binds[0].port == 1 && strcmp(l->conf->venv, "/w") == 0);
    l = LOAD("a:b", "--host", "::");
    CHECK(l->conf->binds_n == 1 && l->conf->binds[0].port == 5000 &&
          strcmp(l->conf->binds[0].host, "::") == 0);
    setenv("WEB_CONCURRENCY", "", 1);
    setenv("PORT", "", 1);
    l = LOAD("a:b");
    CHECK(l->result == 0 && l->conf->workers == 1 && l->conf->binds[0].port == 8000);
    CHECK(LOAD("a:b", "--host", "::")->conf->binds[0].port == 8000);
    clearenv();
    /* A platform's variable that is not used is not judged either. */
    setenv("WEB_CONCURRENCY", "x", 1);
    CHECK(LOAD("a:b", "-w", "1")->result == 0);
    clearenv();
}

/* The value of name in conf->env, or NULL. */
static const char *
exported(const struct loaded *l, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; l->conf != NULL && i < l->conf->env.n; i++)
        if (strncmp(l->conf->env.v[i], name, n) == 0 && l->conf->env.v[i][n] == '=')
            return l->conf->env.v[i] + n + 1;
    return NULL;
}

static bool
exports(const struct loaded *l, const char *name, const char *value)
{
    const char *is = exported(l, name);
    return is != NULL && strcmp(is, value) == 0;
}

static void
test_env_file(void)
{
    write_file("e.env",
               "# a comment\n\nA=1\n  export B = two words  # rest\nC='a # \\n'\r\n"
               "D=\"a\\n\\\"b\\\"\" # rest\nE=\nF=a#b\nG==x\nA=2\nPATHLIKE=$HOME/x\nSET=file\n"
               "RINGCORN_BACKLOG=7\nWEB_CONCURRENCY=6\nVIRTUAL_ENV=/v");
    setenv("SET", "process", 1);
    struct loaded *l = LOAD("a:b", "--env-file", "e.env");
    if (!ok(l->result == 0, "the env file is read"))
        return;
    CHECK(exports(l, "A", "2"));
    CHECK(exports(l, "B", "two words"));
    CHECK(exports(l, "C", "a # \\n"));
    CHECK(exports(l, "D", "a\n\"b\""));
    CHECK(exports(l, "E", ""));
    CHECK(exports(l, "F", "a#b"));
    CHECK(exports(l, "G", "=x"));
    CHECK(exports(l, "PATHLIKE", "$HOME/x"));
    CHECK(exported(l, "SET") == NULL);
    CHECK(l->conf->backlog == 7 && l->conf->workers == 6 && strcmp(l->conf->venv, "/v") == 0);
    CHECK(getenv("A") == NULL);
    CHECK(conf_export_env(l->conf) == 0 && strcmp(getenv("A"), "2") == 0 &&
          strcmp(getenv("SET"), "process") == 0);
    clearenv();

    write_file("e.env",
               "A\n1B=2\nC=\"x\nD='x' y\nE F=1\nRINGCORN_WORKERS=x\nRINGCORN_WROKERS=1\n=5\n");
    l = LOAD("a:b", "--env-file", "e.env");
    CHECK(l->result == -EXIT_CODE_USAGE && lines(l) == 8);
    CHECK(has_line(l, "e.env:1: 'A' is not of the form NAME=value"));
    CHECK(has_line(l, "e.env:2: '1B=2' is not of the form NAME=value"));
    CHECK(has_line(l, "e.env:3: C has a quote that is not closed on its line"));
    CHECK(has_line(l, "e.env:4: D has text behind its closing quote"));
    CHECK(has_line(l, "e.env:5: 'E F=1' is not of the form NAME=value"));
    CHECK(has_line(l, "e.env:6: RINGCORN_WORKERS: 'x' is wrong; expected auto or 1 to 1024"));
    CHECK(
        has_line(l, "e.env:7: RINGCORN_WROKERS: no such variable; did you mean RINGCORN_WORKERS?"));
    CHECK(has_line(l, "e.env:8: '=5' is not of the form NAME=value"));
}

int
main(void)
{
    test_begin();
    test_variables();
    test_fallbacks();
    test_env_file();
    return test_end();
}
