/* env.c: the environment: RINGCORN_*, the variables platforms set, and --env-file.
 *
 * An env file holds NAME=value lines as dotenv files do: `export` before a name, # comments,
 * 'literal' and "quoted" values. Nothing is expanded in it. What the process's own environment has
 * wins; the rest is handed to the workers. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "conf/load.h"

#define PREFIX "RINGCORN_"

/* --- the env file ----------------------------------------------------------------------------- */

/* Reads a value up to the line's end into text (in place). Returns NULL or what is wrong with
 * it. */
static const char *
unquote(char *p, char **value)
{
    char quote = *p;
    if (quote != '\'' && quote != '"') {
        char *end = p;
        /* A # begins a comment at the start of the value or behind a space. */
        while (*end != '\0' && !(*end == '#' && (end == p || end[-1] == ' ' || end[-1] == '\t')))
            end++;
        while (end > p && isspace((unsigned char)end[-1]))
            end--;
        *end = '\0';
        *value = p;
        return NULL;
    }
    char *out = *value = ++p;
    for (; *p != quote; p++) {
        if (*p == '\0')
            return "has a quote that is not closed on its line";
        if (*p == '\\' && quote == '"' && p[1] != '\0') {
            p++;
            *out++ = (char)(*p == 'n' ? '\n' : *p == 't' ? '\t' : *p == 'r' ? '\r' : *p);
        } else {
            *out++ = *p;
        }
    }
    for (p++; *p == ' ' || *p == '\t';)
        p++;
    *out = '\0';
    return *p == '\0' || *p == '#' ? NULL : "has text behind its closing quote";
}

static int
env_add(struct load *l, const char *name, const char *value, unsigned line)
{
    struct env_var *v = reallocarray(l->env, l->env_n + 1, sizeof(*v));
    if (v == NULL)
        return -ENOMEM;
    l->env = v;
    struct env_var new = { strdup(name), strdup(value), line };
    if (new.name == NULL || new.value == NULL) {
        free(new.name);
        free(new.value);
        return -ENOMEM;
    }
    v[l->env_n++] = new;
    return 0;
}

static struct env_var *
env_find(const struct load *l, const char *name)
{
    for (size_t i = l->env_n; i > 0; i--) /* the last one counts, as in a shell */
        if (strcmp(l->env[i - 1].name, name) == 0)
            return &l->env[i - 1];
    return NULL;
}

static void
env_line(struct load *l, const struct where *w, char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    if (*p == '\0' || *p == '#')
        return;
    if (strncmp(p, "export", 6) == 0 && (p[6] == ' ' || p[6] == '\t'))
        for (p += 6; *p == ' ' || *p == '\t';)
            p++;
    char *name = p, *value;
    if (isalpha((unsigned char)*p) || *p == '_')
        while (isalnum((unsigned char)*p) || *p == '_')
            p++;
    char *end = p;
    while (*p == ' ' || *p == '\t')
        p++;
    if (end == name || *p != '=') {
        load_error(l, w, "'%.80s' is not of the form NAME=value", name);
        return;
    }
    *end = '\0';
    for (p++; *p == ' ' || *p == '\t';)
        p++;
    const char *fault = unquote(p, &value);
    if (fault != NULL)
        load_error(l, w, "%s %s", name, fault);
    else if (l->env_n >= LIST_MAX)
        load_error(l, w, "there are more than %d variables", LIST_MAX);
    else if (env_add(l, name, value, w->line) < 0)
        load_system_error(l, w, "no memory");
}

void
env_file_parse(struct load *l, const char *name, char *text)
{
    struct where w = { .source = SOURCE_ENV, .file = name };
    char *rest = text, *line;
    l->env_file = name;
    while ((line = strsep(&rest, "\n")) != NULL) {
        size_t n = strlen(line);
        w.line++;
        if (n > 0 && line[n - 1] == '\r')
            line[n - 1] = '\0';
        env_line(l, &w, line);
    }
}

void
env_file_read(struct load *l, const char *path, const struct where *w)
{
    MEM_OWNED char *text = NULL;
    size_t n;
    int error = file_read(path, &text, &n);
    if (error == -EFBIG)
        load_error(l, w, "%s is larger than %d bytes; is it the right file?", path, FILE_SIZE_MAX);
    else if (error < 0)
        load_system_error(l, w, "cannot read %s: %s", path, strerror(-error));
    else if (strlen(text) != n)
        load_error(l, w, "%s holds a NUL byte; is it the right file?", path);
    else
        env_file_parse(l, path, text);
}

int
env_export(const struct load *l, struct conf_strings *out)
{
    for (size_t i = 0; i < l->env_n; i++) {
        MEM_OWNED char *text = NULL;
        if (getenv(l->env[i].name) != NULL || env_find(l, l->env[i].name) != &l->env[i])
            continue;
        if (asprintf(&text, "%s=%s", l->env[i].name, l->env[i].value) < 0) {
            text = NULL;
            return -ENOMEM;
        }
        if (strings_add(out, text) < 0)
            return -ENOMEM;
    }
    return 0;
}

void
env_fini(struct load *l)
{
    for (size_t i = 0; i < l->env_n; i++) {
        free(l->env[i].name);
        free(l->env[i].value);
    }
    free(l->env);
    l->env = NULL;
    l->env_n = 0;
}

int
conf_export_env(const struct conf *conf)
{
    for (size_t i = 0; i < conf->env.n; i++) {
        const char *equals = strchr(conf->env.v[i], '=');
        MEM_OWNED char *name = strndup(conf->env.v[i], (size_t)(equals - conf->env.v[i]));
        if (name == NULL || setenv(name, equals + 1, 1) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* --- variables -------------------------------------------------------------------------------- */

static struct where
where_variable(const struct load *l, const char *name, size_t n, unsigned line)
{
    return (struct where){ .source = SOURCE_ENV,
                           .file = line > 0 ? l->env_file : NULL,
                           .line = line,
                           .name = name,
                           .name_n = n };
}

const char *
env_get(const struct load *l, const char *name, struct where *w)
{
    const char *value = getenv(name);
    const struct env_var *v = value == NULL ? env_find(l, name) : NULL;
    *w = where_variable(l, name, strlen(name), v ? v->line : 0);
    w->source = SOURCE_FALLBACK;
    return v ? v->value : value;
}

static void
variable_apply(struct load *l, const char *name, const char *value, const struct where *w)
{
    const struct key *k = schema_by_variable(name + strlen(PREFIX));
    if (k == NULL) {
        const char *advice = names_advice(name + strlen(PREFIX));
        const char *near = advice ? NULL : names_near_variable(name);
        if (advice != NULL)
            load_error(l, w, "no such variable; %s", advice);
        else if (near != NULL)
            load_error(l, w, "no such variable; did you mean %s?", near);
        else
            load_error(l, w, "no such variable; ringcorn --config-reference lists all keys");
    } else if (value[0] != '\0') { /* NAME= is how compose files and units say "not set" */
        value_add_joined(l, k, value, w);
    }
}

void
env_apply(struct load *l)
{
    for (char **e = environ; e != NULL && *e != NULL; e++) {
        const char *equals = strchr(*e, '=');
        if (strncmp(*e, PREFIX, strlen(PREFIX)) != 0 || equals == NULL ||
            strncmp(*e, ENV_DEFAULTS "=", sizeof(ENV_DEFAULTS)) == 0)
            continue;
        MEM_OWNED char *name = strndup(*e, (size_t)(equals - *e));
        struct where w = where_variable(l, *e, (size_t)(equals - *e), 0);
        if (name == NULL)
            load_system_error(l, &w, "no memory");
        else
            variable_apply(l, name, equals + 1, &w);
    }
    for (size_t i = 0; i < l->env_n; i++) {
        const struct env_var *v = &l->env[i];
        if (strncmp(v->name, PREFIX, strlen(PREFIX)) != 0 || getenv(v->name) != NULL ||
            env_find(l, v->name) != v)
            continue;
        struct where w = where_variable(l, v->name, strlen(v->name), v->line);
        variable_apply(l, v->name, v->value, &w);
    }
}

/* The virtual environment in whose bin/ this program lies. */
static bool
own_venv(char out[PATH_MAX])
{
    char config[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n <= 0)
        return false;
    out[n] = '\0';
    for (int i = 0; i < 2; i++) { /* the program's name, then bin */
        char *slash = strrchr(out, '/');
        if (slash == NULL)
            return false;
        *slash = '\0';
    }
    return snprintf(config, sizeof(config), "%s/pyvenv.cfg", out) < (int)sizeof(config) &&
           access(config, R_OK) == 0;
}

void
env_apply_fallbacks(struct load *l)
{
    const struct key *workers = schema_by_name("workers"), *bind = schema_by_name("bind"),
                     *venv = schema_by_name("venv"), *trusted = schema_by_name("proxy.trusted");
    struct where w;
    const char *text = env_get(l, "WEB_CONCURRENCY", &w);
    if (text != NULL && text[0] != '\0' && load_where(l, workers)->source <= SOURCE_PRESET)
        value_add(l, workers, text, &w);
    /* Installed into an environment it serves that one, as its `python` would, whichever is active. */
    char own[PATH_MAX];
    if (load_where(l, venv)->source <= SOURCE_PRESET && own_venv(own)) {
        w = (struct where){ .source = SOURCE_FALLBACK, .name = "venv", .name_n = strlen("venv") };
        value_add(l, venv, own, &w);
    }
    text = env_get(l, "VIRTUAL_ENV", &w);
    if (text != NULL && text[0] != '\0' && load_where(l, venv)->source <= SOURCE_PRESET)
        value_add(l, venv, text, &w);
    text = env_get(l, "FORWARDED_ALLOW_IPS", &w);
    if (text != NULL && text[0] != '\0' && load_where(l, trusted)->source == SOURCE_DEFAULT)
        value_add_joined(l, trusted, text, &w);
    text = env_get(l, "PORT", &w);
    if (text != NULL && text[0] != '\0' && load_where(l, bind)->source <= SOURCE_PRESET) {
        /* Platforms that set PORT send requests to the container's own address, so all addresses,
         * as gunicorn has it. */
        struct conf_bind b = { 0 };
        char why[160];
        if (!port_is_right(text))
            load_error(l, &w, "'%s' is not a port from 0 to 65535", text);
        else if (bind_from_host("0.0.0.0", text, &b, why, sizeof(why)) < 0)
            load_system_error(l, &w, "no memory");
        else
            value_add_bind(l, bind, &b, &w);
    }
}
