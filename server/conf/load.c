/* load.c: conf_load(): the order of the sources, and how faults are told. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "conf/load.h"

#define CONFIG_FILE "ringcorn.yaml"

/* --- faults ----------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 0))) static void
report(struct load *l, const struct where *w, const char *format, va_list args)
{
    char text[1024], line[2048];
    size_t n = 0;
    if (l->is_quiet)
        return;
    vsnprintf(text, sizeof(text), format, args);
    if (w->file != NULL && w->line > 0)
        snprintf(line, sizeof(line), "%.255s:%u: ", w->file, w->line);
    else
        snprintf(line, sizeof(line), "%.255s%s", w->file ? w->file : "", w->file ? ": " : "");
    n = strlen(line);
    if (w->name != NULL)
        snprintf(line + n, sizeof(line) - n, "%.*s: ", (int)(w->name_n < 128 ? w->name_n : 128),
                 w->name);
    n = strlen(line);
    snprintf(line + n, sizeof(line) - n, "%s", text);
    /* What the operator typed is shown, but may neither break the line nor drive the terminal. */
    for (unsigned char *p = (unsigned char *)line; *p != '\0'; p++)
        if (*p < ' ' || *p == 0x7f)
            *p = '?';
    log_operator("%s", line);
}

void
load_error(struct load *l, const struct where *w, const char *format, ...)
{
    va_list args;
    l->errors++;
    va_start(args, format);
    report(l, w, format, args);
    va_end(args);
}

void
load_system_error(struct load *l, const struct where *w, const char *format, ...)
{
    va_list args;
    l->errors++;
    l->is_system = true;
    va_start(args, format);
    report(l, w, format, args);
    va_end(args);
}

struct where
where_option(const char *option, size_t n)
{
    return (struct where){ .source = SOURCE_CLI, .name = option, .name_n = n };
}

struct where
where_key(const struct key *k)
{
    return (struct where){ .name = k->name, .name_n = strlen(k->name) };
}

/* --- files ------------------------------------------------------------------------------------ */

const char *
launch_dir(void)
{
    static char dir[PATH_MAX];
    if (dir[0] != '\0')
        return dir;
    struct stat here, named;
    const char *pwd = getenv("PWD");
    if (pwd != NULL && pwd[0] == '/' && strlen(pwd) < sizeof(dir) && stat(".", &here) == 0 &&
        stat(pwd, &named) == 0 && here.st_dev == named.st_dev && here.st_ino == named.st_ino)
        strcpy(dir, pwd);
    else if (getcwd(dir, sizeof(dir)) == NULL || dir[0] != '/')
        dir[0] = '\0';
    return dir;
}

char *
absolute_path(const char *path)
{
    const char *dir = launch_dir();
    char *out;
    if (path[0] == '/' || dir[0] == '\0')
        return strdup(path);
    while (path[0] == '.' && (path[1] == '/' || path[1] == '\0'))
        for (path++; *path == '/';)
            path++;
    if (path[0] == '\0')
        return strdup(dir);
    if (asprintf(&out, "%s%s%s", dir, dir[1] == '\0' ? "" : "/", path) < 0)
        return NULL;
    return out;
}

int
file_read(const char *path, char **text, size_t *n)
{
    MEM_OWNED char *absolute = absolute_path(path);
    if (absolute == NULL)
        return -ENOMEM;
    FD_OWNED int fd = open(absolute, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    BUF_OWNED struct buf b = { 0 };
    for (;;) {
        if (buf_reserve(&b, 4096 + 1) < 0)
            return -ENOMEM;
        ssize_t done = read(fd, b.p + b.n, b.cap - b.n - 1);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        if (done == 0)
            break;
        b.n += (size_t)done;
        if (b.n > FILE_SIZE_MAX)
            return -EFBIG;
    }
    b.p[b.n] = '\0';
    *text = b.p;
    *n = b.n;
    b = (struct buf){ 0 };
    return 0;
}

/* --- the load --------------------------------------------------------------------------------- */

void
conf_free(struct conf *conf)
{
    if (conf == NULL)
        return;
    for (size_t i = 0; i < schema_n; i++)
        value_free(conf, &schema[i]);
    strings_free(&conf->env);
    bind_free(&conf->health_at);
    bind_free(&conf->control_at);
    bind_free(&conf->metrics_at);
    access_free(conf);
    free(conf->timeout_routes_ms);
    free(conf->file);
    free(conf);
}

static int
load_init(struct load *l, bool is_quiet)
{
    *l = (struct load){ .is_quiet = is_quiet };
    if ((l->conf = calloc(1, sizeof(*l->conf))) == NULL) {
        load_system_error(l, &(struct where){ 0 }, "no memory");
        return -EXIT_CODE_SYSTEM;
    }
    for (size_t i = 0; i < schema_n; i++) {
        struct where w = where_key(&schema[i]);
        *load_where(l, &schema[i]) = w;
        if (schema[i].initial != NULL)
            value_add_joined(l, &schema[i], schema[i].initial, &w);
    }
    return 0;
}

/* Hands the result over, or frees what there is. */
static int
load_fini(struct load *l, struct conf **out)
{
    env_fini(l);
    if (l->errors == 0) {
        *out = l->conf;
        return 0;
    }
    conf_free(l->conf);
    return l->is_system ? -EXIT_CODE_SYSTEM : -EXIT_CODE_USAGE;
}

/* RINGCORN_DEFAULTS: a YAML file below everything else that is said, for whoever builds an image: what an operator's file leaves
 * out is as the image has it. */
static void
load_preset(struct load *l)
{
    const char *path = getenv(ENV_DEFAULTS);
    struct where w = { .name = ENV_DEFAULTS, .name_n = strlen(ENV_DEFAULTS) };
    MEM_OWNED char *text = NULL;
    size_t n;
    if (path == NULL || path[0] == '\0')
        return;
    int error = file_read(path, &text, &n);
    if (error < 0)
        load_system_error(l, &w, "cannot read %s: %s", path, strerror(-error));
    else
        yaml_apply(l, SOURCE_PRESET, path, text, n);
}

static void
load_yaml(struct load *l, const struct cli *cli)
{
    const char *named = cli->special[CLI_CONFIG].text;
    const char *path = named ? named : CONFIG_FILE;
    struct where w = named ? cli->special[CLI_CONFIG].where : (struct where){ 0 };
    MEM_OWNED char *text = NULL;
    size_t n;
    int error = file_read(path, &text, &n);
    if (error == -ENOENT && named == NULL)
        return;
    if (error == -EFBIG)
        load_error(l, &w, "%s is larger than %d bytes; is it the right file?", path, FILE_SIZE_MAX);
    else if (error < 0)
        load_system_error(l, &w, "cannot read %s: %s", path, strerror(-error));
    if (error < 0)
        return;
    if ((l->conf->file = strdup(path)) == NULL)
        load_system_error(l, &w, "no memory");
    yaml_apply(l, SOURCE_YAML, path, text, n);
}

int
conf_load(int argc, char **argv, enum conf_action *action, struct conf **out)
{
    struct load l;
    struct cli cli = { 0 };
    enum conf_action at_once = cli_peek(argc, argv);
    if (at_once != CONF_RUN) {
        *action = at_once;
        *out = NULL;
        return 0;
    }
    int error = load_init(&l, false);
    if (error < 0)
        return error;
    cli_scan(&l, argc, argv, &cli);
    if (cli.special[CLI_ENV_FILE].text != NULL)
        env_file_read(&l, cli.special[CLI_ENV_FILE].text, &cli.special[CLI_ENV_FILE].where);
    load_preset(&l);
    load_yaml(&l, &cli);
    env_apply(&l);
    cli_apply(&l, &cli);
    env_apply_fallbacks(&l);
    check_all(&l, cli.action == CONF_RUN);
    if (env_export(&l, &l.conf->env) < 0)
        load_system_error(&l, &(struct where){ 0 }, "no memory");
    enum conf_action asked = cli.action;
    cli_fini(&cli);
    error = load_fini(&l, out);
    if (error == 0)
        *action = asked;
    return error;
}

int
conf_load_text(const char *name, const char *text, size_t n, bool is_quiet, struct conf **out)
{
    struct load l;
    int error = load_init(&l, is_quiet);
    if (error < 0)
        return error;
    yaml_apply(&l, SOURCE_YAML, name, text, n);
    check_all(&l, false);
    return load_fini(&l, out);
}
