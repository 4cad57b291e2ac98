/* check.c: what depends on several keys, or on the machine. */
#include <ctype.h>
#include <errno.h>
#include <sys/stat.h>

#include "conf/load.h"

static struct where *
where_set(struct load *l, const char *name)
{
    return load_where(l, schema_by_name(name));
}

static void
check_binds(struct load *l)
{
    const struct conf *c = l->conf;
    if (c->binds_n == 0 && l->errors == 0)
        load_error(l, where_set(l, "bind"),
                   "has no entry; without an address nobody can ask anything");
    for (size_t i = 0; i < c->binds_n; i++)
        for (size_t j = 0; j < i; j++) {
            const struct conf_bind *a = &c->binds[i], *b = &c->binds[j];
            bool is_same = a->kind == b->kind;
            if (is_same && a->kind == CONF_BIND_TCP)
                is_same = a->port == b->port && a->port != 0 && strcmp(a->host, b->host) == 0;
            else if (is_same && a->kind == CONF_BIND_UNIX)
                is_same = bind_paths_clash(a->path, b->path);
            else if (is_same)
                is_same = a->fd == b->fd;
            if (is_same) {
                load_error(l, where_set(l, "bind"), "%s is there twice", a->text);
                break;
            }
        }
}

/* What belongs to TLS without a certificate, and lists that do not go together. */
static void
check_tls(struct load *l)
{
    struct conf *c = l->conf;
    const struct {
        const char *name;
        bool is_set;
    } needy[] = {
        { "tls.key", c->tls_key.n > 0 },
        { "tls.key_password_file", c->tls_key_password_file != NULL },
        { "tls.client_ca", c->tls_client_ca != NULL },
        { "tls.crl", c->tls_crl != NULL },
        { "tls.ocsp", c->tls_ocsp.n > 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(needy) && c->tls_cert.n == 0; i++)
        if (needy[i].is_set)
            load_error(l, where_set(l, needy[i].name), "is of no use without tls.cert");
    for (size_t i = 0; i < c->binds_n && c->tls_cert.n == 0; i++)
        if (c->binds[i].scheme == CONF_SCHEME_HTTPS)
            load_error(l, where_set(l, "bind"), "%s needs a certificate: set tls.cert and tls.key",
                       c->binds[i].text);
    if (c->tls_key.n > 0 && c->tls_cert.n > 0 && c->tls_key.n != c->tls_cert.n)
        load_error(l, where_set(l, "tls.key"),
                   "has %zu entries and tls.cert has %zu; write the key of "
                   "each certificate in the same order",
                   c->tls_key.n, c->tls_cert.n);
    if (c->tls_client_ca != NULL && where_set(l, "tls.client_verify")->source == SOURCE_DEFAULT)
        c->tls_client_verify = CONF_CLIENT_REQUIRED;
    if (c->tls_client_verify != CONF_CLIENT_NONE && c->tls_client_ca == NULL)
        load_error(l, where_set(l, "tls.client_verify"),
                   "needs tls.client_ca, the authorities whose certificates are accepted");
    if (c->tls_crl != NULL && c->tls_client_ca == NULL)
        load_error(l, where_set(l, "tls.crl"), "is of no use without tls.client_ca");
}

static void
check_app_dir(struct load *l)
{
    struct stat st;
    const char *dir = l->conf->app_dir;
    if (dir == NULL) /* no memory, as was said */
        return;
    if (stat(dir, &st) < 0)
        load_error(l, where_set(l, "app_dir"), "%s: %s", dir, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        load_error(l, where_set(l, "app_dir"), "%s is not a folder", dir);
}

/* A header of one's own in place of the server's: said twice it would be sent twice. */
static void
check_own_header(struct load *l, const char *header, const char *switch_name, bool *is_sent)
{
    bool is_there = false;
    for (size_t i = 0; i < l->conf->headers_n; i++)
        is_there |= strcasecmp(l->conf->headers[i].name, header) == 0;
    if (!is_there || !*is_sent)
        return;
    if (where_set(l, switch_name)->source <= SOURCE_PRESET)
        *is_sent = false;
    else
        load_error(l, where_set(l, "headers"), "%s is sent by the server too; set %s to false",
                   header, switch_name);
}

/* An address beside the application's. */
static void
check_own_bind(struct load *l, const char *key, const char *text, struct conf_bind *out)
{
    struct conf *c = l->conf;
    char why[160];
    for (size_t i = 0; i < c->binds_n; i++)
        if (strcmp(c->binds[i].text, text) == 0 &&
            (c->binds[i].kind != CONF_BIND_TCP || c->binds[i].port != 0))
            load_error(
                l, where_set(l, key),
                "is the application's address; leave it out, and the paths are answered there");
    if (bind_parse(text, out, why, sizeof(why)) == -ENOMEM)
        load_system_error(l, where_set(l, key), "no memory");
}

/* "off" becomes NULL; the address is parsed. */
static void
check_health(struct load *l)
{
    struct conf *c = l->conf;
    char **paths[] = { &c->health_live, &c->health_ready };
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (*paths[i] != NULL && strcmp(*paths[i], "off") == 0) {
            free(*paths[i]);
            *paths[i] = NULL;
        }
    if (c->health_live != NULL && c->health_ready != NULL &&
        strcmp(c->health_live, c->health_ready) == 0)
        load_error(l, where_set(l, "health.ready"), "is the path of health.live too");
    if (c->health_bind == NULL)
        return;
    if (c->health_live == NULL && c->health_ready == NULL)
        load_error(l, where_set(l, "health.bind"),
                   "answers nothing, as health.live and health.ready are off");
    check_own_bind(l, "health.bind", c->health_bind, &c->health_at);
}

static void
check_page(struct load *l)
{
    struct conf *c = l->conf;
    if (!c->metrics_page)
        return;
    struct where *at = where_set(l, "metrics.page");
    if (c->metrics_bind == NULL)
        load_error(l, at, "needs an address of its own: set metrics.bind");
    else if (!c->metrics_enabled)
        load_error(l, at, "needs metrics.enabled");
    /* One server has both addresses; the page tells them apart by their ports (or paths). */
    if (c->health_at.text != NULL && c->metrics_at.text != NULL &&
        c->health_at.kind == CONF_BIND_TCP && c->metrics_at.kind == CONF_BIND_TCP &&
        c->health_at.port == c->metrics_at.port && strcmp(c->health_bind, c->metrics_bind) != 0)
        load_error(l, at,
                   "is not for health.bind, which has the port of metrics.bind; give them the same "
                   "address, or other ports");
}

static void
check_metrics(struct load *l)
{
    struct conf *c = l->conf;
    const char *others[] = { c->health_live, c->health_ready };
    if (c->metrics_bind != NULL && where_set(l, "metrics.enabled")->source <= SOURCE_PRESET)
        c->metrics_enabled = true;
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (c->metrics_enabled && others[i] != NULL && strcmp(c->metrics_path, others[i]) == 0)
            load_error(l, where_set(l, "metrics.path"), "is the path of health.%s too",
                       i == 0 ? "live" : "ready");
    if (c->metrics_bind != NULL && c->metrics_enabled)
        check_own_bind(l, "metrics.bind", c->metrics_bind, &c->metrics_at);
    check_page(l);
}

/* Whoever changes code wants to see what is wrong with it. */
static void
check_guard(struct load *l)
{
    if (l->conf->reload_enabled && where_set(l, "guard.mode")->source <= SOURCE_PRESET)
        l->conf->guard_mode = CONF_GUARD_RAISE;
}

/* "off" becomes NULL; the path is parsed as an address is. */
static void
check_control(struct load *l)
{
    struct conf *c = l->conf;
    char why[160];
    if (c->control_socket == NULL)
        return;
    if (strcmp(c->control_socket, "off") == 0) {
        free(c->control_socket);
        c->control_socket = NULL;
        return;
    }
    bool is_bind = strncmp(c->control_socket, "unix:", 5) == 0;
    MEM_OWNED char *text = NULL;
    if (asprintf(&text, "%s%s", is_bind ? "" : "unix:", c->control_socket) < 0) {
        text = NULL;
        load_system_error(l, where_set(l, "control.socket"), "no memory");
        return;
    }
    int err = bind_parse(text, &c->control_at, why, sizeof(why));
    if (err == -ENOMEM)
        load_system_error(l, where_set(l, "control.socket"), "no memory");
    else if (err < 0)
        load_error(l, where_set(l, "control.socket"), "%s", why);
    for (size_t i = 0; err == 0 && i < c->binds_n; i++)
        if (c->binds[i].kind == CONF_BIND_UNIX &&
            bind_paths_clash(c->binds[i].path, c->control_at.path))
            load_error(l, where_set(l, "control.socket"), "is an address of the application");
}

/* A program that is named by a path must be there; others are looked for in PATH when they are run. */
static void
check_events(struct load *l)
{
    const struct conf *c = l->conf;
    const char *program = c->events_command.n > 0 ? c->events_command.v[0] : "";
    struct stat st;
    if (strchr(program, '/') == NULL)
        return;
    if (stat(program, &st) < 0)
        load_error(l, where_set(l, "events.command"), "%s: %s", program, strerror(errno));
    else if (!S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0)
        load_error(l, where_set(l, "events.command"),
                   "%s cannot be executed; a list has the program first and then its arguments, "
                   "and no shell reads them",
                   program);
}

void
check_all(struct load *l, bool is_app_needed)
{
    struct conf *c = l->conf;
    /* Only where nothing else was said: the file that names it may be the one that cannot be
     * read. */
    if (is_app_needed && c->app == NULL && l->errors == 0)
        load_error(l, &(struct where){ 0 },
                   "no application: run `ringcorn module:attribute`, or set app in ringcorn.yaml");
    check_binds(l);
    check_tls(l);
    check_app_dir(l);
    check_own_header(l, "Server", "server_header", &c->server_header);
    check_own_header(l, "Date", "date_header", &c->date_header);
    check_health(l);
    check_guard(l);
    check_control(l);
    check_statics(l, where_set(l, "static"));
    check_metrics(l);
    check_events(l);
    if (where_set(l, "access_log.enabled")->source <= SOURCE_PRESET &&
        where_set(l, "access_log.file")->source > SOURCE_PRESET)
        c->access_log = true;
    if (l->errors == 0 && access_compile(c) < 0)
        load_system_error(l, where_set(l, "access_log.format"), "no memory");
    if (l->errors == 0 && routes_compile(c) < 0)
        load_system_error(l, where_set(l, "timeouts.routes"), "no memory");
    if (c->log_config != NULL && access(c->log_config, R_OK) < 0)
        load_system_error(l, where_set(l, "log.config"), "cannot be read: %s", strerror(errno));
    for (char *p = c->request_id_header; p != NULL && *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    if (c->limit_request_line > c->limit_header_size)
        load_error(l, where_set(l, "limits.request_line"), "is larger than limits.header_size");
    if (c->ws_drain_code < 3000 &&
        (c->ws_drain_code > 1014 || (c->ws_drain_code > 1003 && c->ws_drain_code < 1007)))
        load_error(l, where_set(l, "websocket.drain_code"),
                   "is no code that a Close may carry; 1000 to 1003, 1007 to 1014, 3000 to 4999");
    if (c->workers == 0)
        c->workers = c->shake != NULL ? 1 : conf_cpus();
    if (c->shake != NULL && c->workers > 1)
        load_error(l, where_set(l, "workers"),
                   "shake has one worker: requests in two of them meet as they please");
    /* Joined to paths, which begin with a slash: "/api/" would give "/api//x". */
    for (size_t n = c->root_path ? strlen(c->root_path) : 0; n > 0 && c->root_path[n - 1] == '/';)
        c->root_path[--n] = '\0';
}
