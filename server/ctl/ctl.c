/* ctl.c: ringcornctl's command line: COMMAND [arguments] [options]. Options beside its own are the server's (-c FILE, --control-socket PATH),
 * which say where the server is. */
#include "ctl.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"
#include "conf/conf.h"

static const struct command {
    const char *name;
    const char *argument; /* of the protocol, given without a name; NULL = none */
    bool is_needed;
    const char *usage, *help;
} commands[] = {
    { "status", NULL, false, "", "what is served, where, and by whom" },
    { "workers", NULL, false, "", "the workers: state, age, memory, CPU" },
    { "metrics", NULL, false, "", "what they count: requests, latencies, connections, threads" },
    { "requests", "worker", false, " [WORKER]", "requests in hand: age, state, thread" },
    { "tasks", "worker", false, " [WORKER]",
      "requests, their asyncio tasks, and what each waits for, as a tree" },
    { "threads", "worker", false, " [WORKER]", "threads: what they do, with stacks" },
    { "services", "worker", false, " [WORKER]",
      "services: state, since when, restarts, last error" },
    { "blocks", "worker", false, " [WORKER]",
      "what has blocked the event loop: where, how often, for how long" },
    { "advise", "seconds", false, " [SECONDS]",
      "what would be better for each route; of the SECONDS from now on" },
    { "config", NULL, false, "", "the configuration in force, as YAML" },
    { "reload", NULL, false, "", "as SIGHUP; returns when it is over, with 1 where it failed" },
    { "scale", "workers", true, " N", "N workers from now on" },
    { "log-level", "level", true, " LEVEL",
      "debug, info, warning or error, until the next reload" },
    { "reopen-logs", NULL, false, "", "as SIGUSR1, after log files were moved" },
    { "stop", NULL, false, "", "as SIGTERM: requests finish, then the server ends" },
};

static void
print_usage(FILE *out)
{
    fputs("usage: ringcornctl COMMAND [--json] [-c FILE | --control-socket PATH]\n\n"
          "Of the running server, whose control.socket the configuration names:\n\n",
          out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        char left[64];
        snprintf(left, sizeof(left), "%s%s", commands[i].name, commands[i].usage);
        fprintf(out, "  %-20s %s\n", left, commands[i].help);
    }
    fputs("  top                  a live view, until q; --interval 1s, --once prints one frame\n",
          out);
    fputs("\nOf a configuration:\n\n"
          "  nginx-upstream       its addresses as an upstream block for nginx\n\n"
          "--json prints the answer as it comes. All options of ringcorn that say where the server "
          "is are taken too.\n",
          out);
}

/* The configuration that the options name, as for --print-config, which needs no application either. argv[0] stays; v has room for one more. NULL
 * after *code. */
static struct conf *
load(int argc, char **argv, int *code)
{
    enum conf_action action;
    struct conf *conf;
    int error = conf_load(argc, argv, &action, &conf);
    if (error < 0) {
        *code = -error;
        return NULL;
    }
    if (conf == NULL) { /* --help and the like behind the command */
        print_usage(stdout);
        *code = EXIT_CODE_OK;
    }
    return conf;
}

static int
nginx_upstream(const struct conf *conf)
{
    if (conf_print_upstream(conf, stdout) < 0) {
        log_operator("out of memory");
        return EXIT_CODE_SYSTEM;
    }
    return EXIT_CODE_OK;
}

/* {"name":value}, a number as one. */
static int
put_arguments(const struct command *c, const char *value, struct buf *out)
{
    struct json j = json_into(out);
    json_begin(&j, '{');
    if (value != NULL) {
        char *end;
        long long n = strtoll(value, &end, 10);
        json_key(&j, c->argument);
        if (isdigit((unsigned char)value[0]) && *end == '\0')
            json_int(&j, n);
        else
            json_string(&j, value);
    }
    json_end(&j, '}');
    return j.is_lost || buf_append(out, "", 1) < 0 ? -ENOMEM : 0;
}

static bool
has_socket(const struct conf *conf, const char *command)
{
    if (conf->control_socket != NULL)
        return true;
    log_operator("%s: control.socket is not set; set it in ringcorn.yaml, or name the socket "
                 "of the running server with --control-socket",
                 command);
    return false;
}

static int
ask(const struct conf *conf, const struct command *c, const char *value, bool is_json)
{
    if (!has_socket(conf, c->name))
        return EXIT_CODE_SYSTEM;
    BUF_OWNED struct buf arguments = { 0 }, line = { 0 };
    JSON_DOC_OWNED struct json_doc doc = { 0 };
    struct json_ref result;
    if (put_arguments(c, value, &arguments) < 0) {
        log_operator("out of memory");
        return EXIT_CODE_SYSTEM;
    }
    char why[256];
    FD_OWNED int fd = ctl_connect(conf->control_at.path, why, sizeof(why));
    if (fd < 0)
        log_operator("%s", why);
    if (fd < 0 || ctl_exchange(fd, c->name, arguments.p, &line, &doc, &result) < 0)
        return EXIT_CODE_SYSTEM;
    const char *yaml = json_ref_text(json_ref_get(result, "yaml"));
    if (is_json)
        fwrite(line.p, 1, line.n, stdout);
    else if (yaml != NULL)
        fputs(yaml, stdout);
    else if (strcmp(c->name, "advise") == 0)
        ctl_print_advice(result, stdout);
    else if (strcmp(c->name, "tasks") == 0)
        ctl_print_tasks(result, stdout);
    else
        ctl_print(result, stdout);
    return EXIT_CODE_OK;
}

static const struct command *
find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

enum { INTERVAL_MIN_MS = 100, INTERVAL_MAX_MS = 3600 * 1000 };

/* "2", "2s", "500ms" */
static bool
parse_interval(const char *text, int64_t *ms)
{
    char *end;
    double n = strtod(text, &end);
    double unit = strcmp(end, "ms") == 0 ? 1 : strcmp(end, "s") == 0 || *end == '\0' ? 1000 : 0;
    if (end == text || !(n * unit >= INTERVAL_MIN_MS && n * unit <= INTERVAL_MAX_MS))
        return false;
    *ms = (int64_t)(n * unit);
    return true;
}

/* Takes a word and what follows it (or is joined to it by '=') out of argv. NULL: it is not there; "" where nothing follows. */
static const char *
take_option(int *argc, char **argv, const char *word)
{
    size_t n = strlen(word);
    for (int i = 1; i < *argc; i++) {
        bool is_joined = strncmp(argv[i], word, n) == 0 && argv[i][n] == '=';
        if (!is_joined && strcmp(argv[i], word) != 0)
            continue;
        const char *value = is_joined ? argv[i] + n + 1 : i + 1 < *argc ? argv[i + 1] : "";
        int gone = is_joined || i + 1 == *argc ? 1 : 2;
        memmove(argv + i, argv + i + gone, (size_t)(*argc - i - gone + 1) * sizeof(*argv));
        *argc -= gone;
        return value;
    }
    return NULL;
}

/* Takes the word out of argv, if it is there. */
static bool
take_word(int *argc, char **argv, const char *word)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], word) != 0)
            continue;
        memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof(*argv));
        --*argc;
        return true;
    }
    return false;
}

int
ctl_main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_CODE_USAGE : EXIT_CODE_OK;
    }
    const char *name = argv[1];
    const struct command *c = find(name);
    bool is_upstream = strcmp(name, "nginx-upstream") == 0;
    bool is_top = strcmp(name, "top") == 0;
    if (c == NULL && !is_upstream && !is_top) {
        log_operator("%s: no such command; ringcornctl --help lists all", name);
        return EXIT_CODE_USAGE;
    }
    int64_t interval_ms = 1000;
    bool is_once = is_top && take_word(&argc, argv, "--once");
    const char *interval = is_top ? take_option(&argc, argv, "--interval") : NULL;
    if (interval != NULL && !parse_interval(interval, &interval_ms)) {
        log_operator("top: --interval %s: is not a time from 100ms to 3600s, like 1s", interval);
        return EXIT_CODE_USAGE;
    }
    bool is_json = !is_top && take_word(&argc, argv, "--json");
    const char *value = NULL;
    if (strcmp(name, "advise") == 0)
        value = take_option(&argc, argv, "--seconds");
    if (c != NULL && c->argument != NULL && value == NULL && argc > 2 && argv[2][0] != '-') {
        value = argv[2];
        memmove(argv + 2, argv + 3, (size_t)(argc - 2) * sizeof(*argv));
        argc--;
    }
    if (c != NULL && c->is_needed && value == NULL) {
        log_operator("%s: what to? usage: ringcornctl %s%s", name, name, c->usage);
        return EXIT_CODE_USAGE;
    }
    static char print_config[] = "--print-config";
    argv[1] = print_config;
    int code;
    struct conf *conf = load(argc, argv, &code);
    if (conf == NULL)
        return code;
    if (is_top)
        code = has_socket(conf, name) ? ctl_top(conf->control_at.path, interval_ms, is_once)
                                      : EXIT_CODE_SYSTEM;
    else
        code = is_upstream ? nginx_upstream(conf) : ask(conf, c, value, is_json);
    conf_free(conf);
    return code;
}
