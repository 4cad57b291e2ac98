/* cli.c: the command line. Options may stand before and behind the application; `--x value` and
 * `--x=value`, `-w 4` and `-w4` are the same; `--` ends the options. Names are never abbreviated:
 * what works today must not turn ambiguous with the next key. */
#include <errno.h>

#include "conf/load.h"

const struct cli_option cli_options[] = {
    { "--config", "-c", "FILE",
      "the YAML file; ringcorn.yaml in the current folder where there is one",
      .special = CLI_CONFIG },
    { "--env-file", NULL, "FILE",
      "variables (NAME=value lines) for the workers, and RINGCORN_* of them for the server",
      .special = CLI_ENV_FILE },
    { "--host", NULL, "HOST", "with --port, in place of --bind (127.0.0.1)", .special = CLI_HOST },
    { "--port", NULL, "PORT", "with --host, in place of --bind (8000)", .special = CLI_PORT },
    { "--uds", NULL, "PATH", "same as --bind unix:PATH", .special = CLI_UDS },
    { "--fd", NULL, "N", "same as --bind fd://N", .special = CLI_FD },
    { "--check-config", NULL, NULL, "judge the configuration and leave", .action = CONF_CHECK },
    { "--healthcheck", NULL, NULL,
      "ask the server that runs with this configuration how it is, and leave: 0 = well",
      .action = CONF_HEALTH },
    { "--print-config", NULL, NULL, "print the configuration as YAML and leave",
      .action = CONF_PRINT },
    { "--config-reference", NULL, NULL, "print the table of all keys as Markdown and leave",
      .action = CONF_REFERENCE },
    { "--version", NULL, NULL, "print versions and what is compiled in, and leave",
      .action = CONF_VERSION },
    { "--help", "-h", NULL, "print this and leave", .action = CONF_HELP },
};
const size_t cli_options_n = ARRAY_LEN(cli_options);

static const struct cli_option *
special_find(const char *option)
{
    for (size_t i = 0; i < cli_options_n; i++)
        if (strcmp(cli_options[i].name, option) == 0 ||
            (cli_options[i].letter != NULL && strcmp(cli_options[i].letter, option) == 0))
            return &cli_options[i];
    return NULL;
}

enum conf_action
cli_peek(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const struct cli_option *o = special_find(argv[i]);
        if (o != NULL && o->value == NULL &&
            (o->action == CONF_HELP || o->action == CONF_VERSION || o->action == CONF_REFERENCE))
            return o->action;
    }
    return CONF_RUN;
}

static void
values_add(struct load *l, struct cli *cli, const struct key *k, const char *text,
           const struct where *w)
{
    struct cli_value *v = reallocarray(cli->values, cli->values_n + 1, sizeof(*v));
    if (v == NULL) {
        load_system_error(l, w, "no memory");
        return;
    }
    cli->values = v;
    v[cli->values_n++] = (struct cli_value){ k, text, *w };
}

static void
unknown(struct load *l, const char *option, const struct where *w)
{
    const char *advice = names_advice(option + strspn(option, "-"));
    const char *near = advice ? NULL : names_near_option(option);
    if (advice != NULL)
        load_error(l, w, "no such option; %s", advice);
    else if (near != NULL)
        load_error(l, w, "no such option; did you mean %s?", near);
    else
        load_error(l, w, "no such option; ringcorn --help lists all");
}

/* The value of an option: behind its '=' or letter, or the next argument. NULL when there is
 * none. */
static const char *
value_of(const char *attached, int argc, char **argv, int *i)
{
    if (attached != NULL)
        return attached;
    /* "--x --y": y is an option and x has no value; a value that begins with two dashes is written
     * --x=--y. */
    if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
        return NULL;
    return argv[++*i];
}

/* Does what follows an unknown option look like its value rather than like the application? One
 * fault is told once. */
static bool
is_value(const char *arg)
{
    return arg[0] != '-' && (strchr(arg, ':') == NULL || strchr(arg, ' ') != NULL);
}

static void
scan_option(struct load *l, int argc, char **argv, int *i, struct cli *cli)
{
    char option[NAME_MAX_KEY];
    const char *arg = argv[*i], *attached = NULL;
    bool is_no = false, is_long = strncmp(arg, "--", 2) == 0;
    size_t n = is_long ? strcspn(arg, "=") : 2;
    if (is_long && arg[n] == '=')
        attached = arg + n + 1;
    else if (!is_long && arg[2] != '\0')
        attached = arg[2] == '=' ? arg + 3 : arg + 2;
    struct where w = where_option(arg, n);
    if (n >= sizeof(option)) {
        load_error(l, &w, "no such option; ringcorn --help lists all");
        return;
    }
    memcpy(option, arg, n);
    option[n] = '\0';

    const struct cli_option *special = special_find(option);
    const struct key *k = special ? NULL : schema_by_option(option, &is_no);
    if (special == NULL && k == NULL) {
        unknown(l, option, &w);
        if (attached == NULL && *i + 1 < argc && is_value(argv[*i + 1]))
            ++*i;
        return;
    }
    if (k != NULL && k->type == KEY_BOOL) {
        if (attached != NULL && is_no)
            load_error(l, &w, "takes no value");
        else
            values_add(l, cli, k, attached ? attached : is_no ? "false" : "true", &w);
        return;
    }
    if (special != NULL && special->value == NULL) {
        if (attached != NULL)
            load_error(l, &w, "takes no value");
        else
            cli->action = special->action;
        return;
    }
    const char *text;
    if (is_no && attached != NULL) {
        load_error(l, &w, "takes no value");
        return;
    }
    if (is_no)
        text = k->zero;
    else if (k != NULL && k->bare != NULL && attached == NULL &&
             (*i + 1 >= argc || !value_is_words(k, argv[*i + 1])))
        text = k->bare; /* uvicorn's and gunicorn's flag: what follows is something else */
    else
        text = value_of(attached, argc, argv, i);
    if (text == NULL) {
        load_error(l, &w, "needs a value: %s %s", option,
                   special    ? special->value
                   : k->value ? k->value
                              : "VALUE");
        return;
    }
    if (special != NULL) {
        cli->special[special->special].text = text;
        cli->special[special->special].where = w;
    } else {
        values_add(l, cli, k, text, &w);
    }
}

void
cli_scan(struct load *l, int argc, char **argv, struct cli *cli)
{
    const struct key *app = schema_by_name("app");
    const char *given = NULL;
    bool is_behind = false; /* behind "--" */
    *cli = (struct cli){ .action = CONF_RUN };
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!is_behind && strcmp(arg, "--") == 0) {
            is_behind = true;
        } else if (!is_behind && arg[0] == '-' && arg[1] != '\0') {
            scan_option(l, argc, argv, &i, cli);
        } else if (given != NULL) {
            struct where w = where_option(arg, strlen(arg));
            load_error(l, &w, "is one argument too many; the application is %s", given);
        } else {
            struct where w = where_option("application", strlen("application"));
            given = arg;
            values_add(l, cli, app, arg, &w);
        }
    }
}

/* --host, --port, --uds and --fd: another way to say one bind. */
static void
apply_address(struct load *l, const struct cli *cli, bool has_bind)
{
    const struct key *k = schema_by_name("bind");
    const struct where *w = NULL;
    int ways = has_bind;
    for (int i = CLI_HOST; i <= CLI_FD; i++)
        if (cli->special[i].text != NULL) {
            /* --host and --port are one address together. */
            ways += !(i == CLI_PORT && cli->special[CLI_HOST].text != NULL);
            w = &cli->special[i].where;
        }
    if (w == NULL)
        return;
    if (ways > 1) {
        load_error(l, w, "cannot be combined with another address; give each as --bind");
        return;
    }
    if (cli->special[CLI_UDS].text != NULL || cli->special[CLI_FD].text != NULL) {
        const char *path = cli->special[CLI_UDS].text, *fd = cli->special[CLI_FD].text;
        char *text;
        if (asprintf(&text, "%s%s", path ? "unix:" : "fd://", path ? path : fd) < 0) {
            load_system_error(l, w, "no memory");
            return;
        }
        value_add(l, k, text, w);
        free(text);
        return;
    }
    struct conf_bind bind = { 0 };
    struct where of_port = cli->special[CLI_PORT].where;
    const char *host = cli->special[CLI_HOST].text, *port = cli->special[CLI_PORT].text;
    char why[160];
    if (port == NULL && (port = env_get(l, "PORT", &of_port)) != NULL && port[0] == '\0')
        port = NULL;
    if (port != NULL && !port_is_right(port)) {
        load_error(l, &of_port, "'%s' is not a port from 0 to 65535", port);
        return;
    }
    int error = bind_from_host(host, port, &bind, why, sizeof(why));
    if (error == -ENOMEM)
        load_system_error(l, w, "no memory");
    else if (error < 0)
        load_error(l, &cli->special[CLI_HOST].where, "'%s' %s", host, why);
    else
        value_add_bind(l, k, &bind, w);
}

void
cli_apply(struct load *l, const struct cli *cli)
{
    const struct key *bind = schema_by_name("bind");
    bool has_bind = false;
    for (size_t i = 0; i < cli->values_n; i++) {
        const struct cli_value *v = &cli->values[i];
        has_bind |= v->key == bind;
        if (v->key->type == KEY_HEADERS) /* a value may hold commas */
            value_add(l, v->key, v->text, &v->where);
        else
            value_add_joined(l, v->key, v->text, &v->where);
    }
    apply_address(l, cli, has_bind);
}

void
cli_fini(struct cli *cli)
{
    free(cli->values);
    *cli = (struct cli){ 0 };
}
