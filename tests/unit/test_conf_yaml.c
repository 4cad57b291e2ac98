/* The YAML file: its shape, and the line that says what is wrong with it. */
#include "conf_load.h"

/* A text and the only line of error it gives. */
static const struct {
    const char *yaml, *line;
} faults[] = {
    { "wokers: 3\n", "t.yaml:1: wokers: no such key; did you mean workers?" },
    { "\n\n# x\ntimeouts:\n  keepalive: 3\n",
      "t.yaml:5: timeouts.keepalive: no such key; did you mean timeouts.keep_alive?" },
    { "timeouts: {Header: 3}\n",
      "t.yaml:1: timeouts.Header: no such key; did you mean timeouts.header?" },
    { "keep_alive: 5\n", "t.yaml:1: keep_alive: no such key; did you mean timeouts.keep_alive?" },
    { "sync:\n  backlog: 5\n", "t.yaml:2: sync.backlog: no such key; did you mean backlog?" },
    { "frobnicate: 5\n",
      "t.yaml:1: frobnicate: no such key; ringcorn --config-reference lists all" },
    { "port: 80\n",
      "t.yaml:1: port: no such key; addresses are entries of bind: host:port, unix:/path, fd://N" },
    { "ssl_keyfile: k\n", "t.yaml:1: ssl_keyfile: no such key; TLS is set up by tls.cert, tls.key, "
                          "tls.client_ca, tls.client_verify and tls.ciphers" },
    { "timeouts.header: 5s\n", "t.yaml:1: timeouts.header: write it nested: `timeouts:`, and below "
                               "it, indented, `header: ...`" },
    { "workers: 1\nworkers: 2\n", "t.yaml:2: workers: is there twice" },
    { "log: {level: info}\nworkers: 2\nlog: {file: x}\n", "t.yaml:3: log: is there twice" },
    { "log:\n  level: info\n  level: info\n", "t.yaml:3: log.level: is there twice" },
    { "log: info\n",
      "t.yaml:1: log: is a group of keys; write them below it, such as `level: ...`" },
    { "log: [info]\n",
      "t.yaml:1: log: is a group of keys; write them below it, such as `level: ...`" },
    { "workers: [1]\n", "t.yaml:1: workers: has a list where one value belongs" },
    { "workers: {a: 1}\n", "t.yaml:1: workers: has keys of its own where one value belongs" },
    { "bind: {a: 1}\n", "t.yaml:1: bind: has keys of its own where one value belongs" },
    { "bind:\n  - :1\n  - [2]\n", "t.yaml:3: bind: has a list where one value belongs" },
    { "workers:\n", "t.yaml:1: workers: has no value; give one or remove the line" },
    { "workers: ~\n", "t.yaml:1: workers: has no value; give one or remove the line" },
    { "workers: ''\n", "t.yaml:1: workers: '' is wrong; expected auto or 1 to 1024" },
    { "workers: !env W\n", "t.yaml:1: workers: has the tag !env, which means nothing here" },
    { "a: &a {workers: 1}\n", "t.yaml:1: a: no such key; ringcorn --config-reference lists all" },
    { "<<: {workers: 1}\n", "t.yaml:1: <<: merge keys are not supported; repeat the keys, or use "
                            "an alias for one value" },
    { "workers: *x\n", "t.yaml:1: found undefined alias" },
    { "? [1]\n: 2\n", "t.yaml:1: has a list where one value belongs" },
    { "- workers: 1\n", "t.yaml: is not a list of `key: value` lines" },
    { "workers\n", "t.yaml: is not a list of `key: value` lines" },
    { "workers: 1\n---\nworkers: 2\n", "t.yaml: holds several documents; only one is read" },
    { "workers: 1\n  io: epoll\n", "t.yaml:2: mapping values are not allowed in this context" },
    { "workers: 1\n\tio: epoll\n",
      "t.yaml:2: while scanning a plain scalar: found a tab character that violates indentation" },
    { "bind: [a:1\n", "t.yaml:2: while parsing a flow sequence: did not find expected ',' or ']'" },
    { "name: \"\x01\"\n",
      "t.yaml: is not UTF-8 text: control characters are not allowed at byte 7" },
    { "name: \"a\xff\"\n", "t.yaml: is not UTF-8 text: invalid leading UTF-8 octet at byte 8" },
    { "headers: x\n", "t.yaml:1: headers: belongs written as 'Name: value' lines below it" },
    { "headers: {X: {a: b}}\n", "t.yaml:1: headers: has keys of its own where one value belongs" },
    { "headers:\n  x: 1\n  X: 2\n",
      "t.yaml:3: headers: X is there twice; write one list: [first, second]" },
    { "io: epol\n",
      "t.yaml:1: io: 'epol' is wrong; did you mean epoll? (auto, io_uring or epoll)" },
    { "timeouts:\n  body: 5x\n", "t.yaml:2: timeouts.body: '5x' is wrong; expected off or a time "
                                 "like 500ms, 30s, 5m or seconds, up to 24h" },
    { "limits: {headers: 10001}\n",
      "t.yaml:1: limits.headers: '10001' is out of range; expected 1 to 10000" },
    { "limits: {request_line: 1MiB}\n",
      "t.yaml:1: limits.request_line: is larger than limits.header_size" },
};

static void
test_faults(void)
{
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct loaded *l = load_yaml_text(faults[i].yaml);
        if (!ok(l->result == -EXIT_CODE_USAGE && l->conf == NULL && lines(l) == 1 &&
                    has_line(l, faults[i].line),
                "%s", faults[i].line))
            diag("got: %s", l->errors);
    }
}

static void
test_all_faults_are_told(void)
{
    struct loaded *l =
        load_yaml_text("wokers: 1\ntimeouts:\n  heder: 1\n  body: x\nio: 5\nbind: [x:y, z:w]\n");
    ok(lines(l) == 6, "six faults are six lines");
}

static void
test_shapes(void)
{
    struct loaded *l = load_yaml_text("");
    CHECK(l->result == 0 && l->conf->workers == 1 && l->conf->app == NULL);
    CHECK(load_yaml_text("# nothing\n---\n...\n")->result == 0);
    CHECK(load_yaml_text("timeouts:\n  # header: 1\nworkers: 2\n")->conf->workers == 2);
    CHECK(load_yaml_text("\xef\xbb\xbfworkers: 2\r\n")->conf->workers == 2);
    CHECK(load_yaml_text("{workers: '3', \"io\": epoll}")->conf->workers == 3);
    CHECK(load_yaml_text("workers: !!str 3\n")->conf->workers == 3);
    CHECK(load_yaml_text("user:\npid_file: null\nroot_path:\n")->result == 0);
    l = load_yaml_text("bind: :1\n");
    CHECK(l->result == 0 && l->conf->binds_n == 1 && l->conf->binds[0].port == 1);
    l = load_yaml_text("bind:\n- 127.0.0.1:1\n- unix:/x\n");
    CHECK(l->result == 0 && l->conf->binds_n == 2);
}

static void
test_aliases(void)
{
    struct loaded *l =
        load_yaml_text("timeouts: {header: &t 7s, body: *t}\n"
                       "python_path: &p [/a, /b]\nimport_first: &m [a]\npython: {options: *m}\n");
    if (!ok(l->result == 0, "aliases are followed"))
        return;
    CHECK(l->conf->timeout_header_ms == 7000 && l->conf->timeout_body_ms == 7000);
    CHECK(l->conf->python_options.n == 1 && strcmp(l->conf->python_options.v[0], "a") == 0);
    /* What bombs are made of: each level ten times the one before. */
    l = load_yaml_text("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
                       "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nimport_first: *c\n");
    ok(l->result < 0 && lines(l) == 3 + 9, "lists in lists are refused, not unfolded");
    l = load_yaml_text("timeouts: &t\n  header: *t\n");
    ok(l->result < 0, "a node within itself ends");
}

static void
test_file(void)
{
    write_file("ringcorn.yaml", "workers: 2\napp: f:app\n");
    struct loaded *l = LOAD();
    CHECK(l->result == 0 && l->conf->workers == 2 && strcmp(l->conf->app, "f:app") == 0);
    CHECK(strcmp(l->conf->file, "ringcorn.yaml") == 0);
    write_file("other.yaml", "workers: 3\n");
    l = LOAD("x:y", "-c", "other.yaml");
    CHECK(l->result == 0 && l->conf->workers == 3);
    l = LOAD("x:y", "--config=none.yaml");
    CHECK(l->result == -EXIT_CODE_SYSTEM &&
          has_line(l, "--config: cannot read none.yaml: No such file or directory"));
    l = LOAD("-c", "/");
    CHECK(l->result == -EXIT_CODE_SYSTEM && has_line(l, "-c: cannot read /: Is a directory") &&
          lines(l) == 1);
    write_file("other.yaml", "wokers: 3\n");
    CHECK(has_line(LOAD("x:y", "-c", "./other.yaml"),
                   "./other.yaml:1: wokers: no such key; did you mean workers?"));
    FILE *f = fopen("large.yaml", "w");
    for (int i = 0; f != NULL && i < FILE_SIZE_MAX / 8 + 1; i++)
        fputs("# text\n#", f);
    CHECK(f != NULL && fclose(f) == 0);
    l = LOAD("x:y", "-c", "large.yaml");
    CHECK(l->result == -EXIT_CODE_USAGE && strstr(l->errors, "larger than") != NULL);
    unlink("ringcorn.yaml");
}

int
main(void)
{
    test_begin();
    test_faults();
    test_all_faults_are_told();
    test_shapes();
    test_aliases();
    test_file();
    return test_end();
}
