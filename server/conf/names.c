/* names.c: what may have been meant by a name that is none of ours. */
#include <ctype.h>

#include "conf/load.h"

/* --- nearest ---------------------------------------------------------------------------------- */

enum { NEAR_MAX = 64 }; /* longer texts are near to nothing */

static unsigned
least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Changes, insertions, losses and swaps of neighbours that lead from a to b (optimal string
 * alignment); ASCII case does not count. */
static unsigned
distance(const char *a, size_t a_n, const char *b, size_t b_n)
{
    unsigned rows[3][NEAR_MAX + 1];
    unsigned *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= b_n; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= a_n; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b_n; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                tolower((unsigned char)a[i - 2]) == y)
                now[j] = least(now[j], before[j - 2] + 1);
        }
        unsigned *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[b_n];
}

const char *
conf_nearest(const char *text, const char *const *names, size_t n)
{
    const char *best = NULL;
    size_t text_n = strlen(text);
    /* One slip in a short name, more in a longer one; never so many that little of the name is
     * left. */
    unsigned allowed = 1 + (unsigned)text_n / 5;
    if (text_n == 0 || text_n > NEAR_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t name_n = strlen(names[i]);
        if (name_n > NEAR_MAX)
            continue;
        unsigned d = distance(text, text_n, names[i], name_n);
        if (d <= allowed && d < name_n && d < text_n) {
            best = names[i];
            if (d == 0)
                break;
            allowed = d - 1; /* from here on only nearer ones: of equals the first stays */
        }
    }
    return best;
}

const char *
names_near_key(const char *name)
{
    const char *names[KEYS_MAX], *parts[KEYS_MAX];
    for (size_t i = 0; i < schema_n; i++) {
        size_t group = key_group_size(&schema[i]);
        names[i] = schema[i].name;
        parts[i] = group > 0 ? schema[i].name + group + 1 : schema[i].name;
    }
    const char *near = conf_nearest(name, names, schema_n);
    if (near != NULL)
        return near;
    /* The right key in the wrong group, or in none. */
    const char *dot = strrchr(name, '.');
    near = conf_nearest(dot ? dot + 1 : name, parts, schema_n);
    for (size_t i = 0; near != NULL && i < schema_n; i++)
        if (parts[i] == near)
            return names[i];
    return NULL;
}

const char *
names_near_option(const char *option)
{
    enum { NAMES = KEYS_MAX * 4 };
    static char store[NAMES][NAME_MAX_KEY];
    const char *names[NAMES];
    size_t n = 0;
    if (strncmp(option, "--", 2) != 0)
        return NULL;
    for (size_t i = 0; i < schema_n && n < NAMES - 6; i++) {
        if (schema[i].is_positional)
            continue;
        size_t first = n;
        key_option(&schema[i], store[n++], NAME_MAX_KEY);
        for (const char *p = schema[i].options; p != NULL && *p != '\0' && n < NAMES - 3;) {
            size_t word = strcspn(p, " ");
            if (word > 2)
                snprintf(store[n++], NAME_MAX_KEY, "%.*s", (int)word, p);
            p += word + strspn(p + word, " ");
        }
        for (size_t end = n, j = first; schema[i].type == KEY_BOOL && j < end && n < NAMES; j++) {
            char option_of[NAME_MAX_KEY]; /* a copy: gcc's -Og takes two rows of store for one */
            memcpy(option_of, store[j], NAME_MAX_KEY);
            snprintf(store[n++], NAME_MAX_KEY, "--no-%.*s", NAME_MAX_KEY - 6, option_of + 2);
        }
    }
    for (size_t i = 0; i < cli_options_n && n < NAMES; i++)
        snprintf(store[n++], NAME_MAX_KEY, "%s", cli_options[i].name);
    for (size_t i = 0; i < n; i++)
        names[i] = store[i] + 2; /* the dashes all share make nothing nearer */
    const char *near = conf_nearest(option + 2, names, n);
    return near ? near - 2 : NULL;
}

const char *
names_near_variable(const char *variable)
{
    static char store[KEYS_MAX][NAME_MAX_KEY];
    const char *names[KEYS_MAX];
    size_t skip = strlen("RINGCORN_");
    for (size_t i = 0; i < schema_n; i++) {
        key_variable(&schema[i], store[i], NAME_MAX_KEY);
        names[i] = store[i] + skip;
    }
    const char *near = conf_nearest(variable + skip, names, schema_n);
    return near ? near - skip : NULL;
}

/* --- advice ----------------------------------------------------------------------------------- */

#define IS_TLS                                                                                     \
    "TLS is set up by tls.cert, tls.key, tls.client_ca, tls.client_verify and tls.ciphers"
#define IS_PASSWORD                                                                                \
    "write it into a file of its own, and name that by tls.key_password_file "                     \
    "(--ssl-keyfile-password-file)"
#define NO_WORKER_CLASS                                                                            \
    "there is one kind of worker, so leave it out; --threads is for synchronous code"
#define IS_FORMAT    "use access_log.format (--access-logformat); its atoms are gunicorn's"
#define IS_LOG_CONFIG "use log.config (--log-config): YAML, JSON or INI, as its name ends"
#define IS_BIND "addresses are entries of bind: host:port, unix:/path, fd://N"

/* What users of uvicorn, gunicorn, granian and hypercorn type, with '-' for '_' and '.'; a '*' at
 * the end takes any rest. */
static const struct {
    const char *name, *advice;
} peers[] = {
    { "ssl-keyfile-password", IS_PASSWORD },
    { "keyfile-password", IS_PASSWORD },
    { "ssl-version", "use tls.min_version: 1.2 or 1.3" },
    { "ssl-protocol-min", "use tls.min_version: 1.2 or 1.3" },
    { "ssl-client-verify", "use tls.client_verify: required" },
    { "ssl-*", IS_TLS },
    { "do-handshake-on-connect", "the loop does handshakes; leave it out" },
    { "insecure-bind", "write the address as http://host:port in bind" },
    { "reload-engine", "files are watched by inotify; leave it out" },
    { "reload-extra-file", "use reload.include (--reload-include)" },
    { "reload-paths", "use reload.dirs (--reload-dir)" },
    { "reload-ignore-*", "use reload.exclude (--reload-exclude)" },
    { "reload-tick", "use reload.delay (--reload-delay)" },
    { "worker-class", NO_WORKER_CLASS },
    { "k", NO_WORKER_CLASS },
    { "runtime-*", NO_WORKER_CLASS },
    { "loop", "io names how the loop waits: --io auto, io_uring or epoll" },
    { "asgi-loop", "io names how the loop waits: --io auto, io_uring or epoll" },
    { "asgi-lifespan", "use lifespan (--lifespan)" },
    { "http", "HTTP/1.1 is served; leave it out" },
    { "ws", "use websocket.enabled (--no-websocket-enabled)" },
    { "ws-*", "use websocket.max_size, .queue, .ping_interval, .ping_timeout, .deflate" },
    { "no-ws", "use websocket.enabled (--no-websocket-enabled)" },
    { "websocket-max-message-size", "use websocket.max_size (--ws-max-size)" },
    { "limit-concurrency", "use limits.concurrency (--limit-concurrency)" },
    { "backpressure", "use limits.concurrency (--limit-concurrency)" },
    { "max-requests", "use recycle.max_requests (--max-requests)" },
    { "limit-max-requests", "use recycle.max_requests (--max-requests)" },
    { "max-requests-jitter", "use recycle.jitter (--max-requests-jitter)" },
    { "limit-max-requests-jitter", "use recycle.jitter (--max-requests-jitter)" },
    { "workers-lifetime", "use recycle.max_age (--workers-lifetime)" },
    { "workers-max-rss", "use recycle.max_rss (--max-rss 512MiB)" },
    { "max-rss", "use recycle.max_rss (--max-rss 512MiB)" },
    { "rss-*", "recycle.max_rss is looked at every second; leave it out" },
    { "respawn-*", "workers that die are always replaced; leave it out" },
    { "timeout", "say which: --graceful-timeout, --keep-alive or --timeouts-header, -body, -send, "
                 "-startup, -worker" },
    { "t", "say which: --graceful-timeout, --keep-alive or --timeouts-header, -body, -send, "
           "-startup, -worker" },
    { "timeout-worker-healthcheck", "use timeouts.worker (--timeout-worker)" },
    { "workers-kill-timeout", "use timeouts.graceful (--graceful-timeout)" },
    { "read-timeout", "use timeouts.body (--timeouts-body)" },
    { "http1-keep-alive", "use timeouts.keep_alive (--keep-alive)" },
    { "http1-header-read-timeout", "use timeouts.header (--timeouts-header)" },
    { "http1-buffer-size", "use limits.header_size (--limit-header-size)" },
    { "h11-max-incomplete-event-size", "use limits.header_size (--limit-header-size)" },
    { "limit-request-fields", "use limits.headers (--limit-headers)" },
    { "limit-request-field-size", "use limits.header_size (--limit-header-size)" },
    { "preload-app", "use preload (--preload)" },
    { "daemon",
      "there is no daemon mode; let systemd, a container or a shell's & keep it running" },
    { "D", "there is no daemon mode; let systemd, a container or a shell's & keep it running" },
    { "e", "set the variable before the command, or use --env-file" },
    { "env", "set the variable before the command, or use --env-file" },
    { "raw-env", "set the variable before the command, or use --env-file" },
    { "env-files", "use --env-file" },
    { "p", "use pid_file (--pid)" },
    { "pidfile", "use pid_file (--pid)" },
    { "m", "use uds.mode (--uds-mode)" },
    { "umask", "use uds.mode (--uds-mode)" },
    { "uds-permissions", "use uds.mode (--uds-mode)" },
    { "pythonpath", "use python_path (--python-path)" },
    { "working-dir", "use app_dir (--app-dir)" },
    { "chdir", "use app_dir (--app-dir)" },
    { "process-name", "use name (--name)" },
    { "proc-name", "use name (--name)" },
    { "url-path-prefix", "use root_path (--root-path)" },
    { "blocking-threads", "use sync.threads (--threads)" },
    { "threads", "use sync.threads (--threads)" },
    { "worker-connections", "use limits.connections (--limit-connections)" },
    { "keepalive", "use timeouts.keep_alive (--keep-alive)" },
    { "graceful-timeout", "use timeouts.graceful (--graceful-timeout)" },
    { "error-logfile", "use log.file (--log-file)" },
    { "errorlog", "use log.file (--log-file)" },
    { "loglevel", "use log.level (--log-level)" },
    { "accesslog", "use access_log.file (--access-logfile)" },
    { "access-logfile", "use access_log.file (--access-logfile)" },
    { "access-log-fmt", IS_FORMAT },
    { "log-config-json", IS_LOG_CONFIG },
    { "logger-class", IS_LOG_CONFIG },
    { "use-colors", "levels are coloured on a terminal unless NO_COLOR is set; leave it out" },
    { "capture-output", "what the application prints goes to standard output; leave it out" },
    { "proxy-allow-ips", "use proxy.trusted (--forwarded-allow-ips)" },
    { "proxy-allow-from", "use proxy.trusted (--forwarded-allow-ips)" },
    { "forwarded-allow-ips", "use proxy.trusted (--forwarded-allow-ips)" },
    { "forwarder-headers", "use proxy.headers" },
    { "secure-scheme-headers", "use proxy.headers" },
    { "statsd*", "metrics are for Prometheus to ask: metrics.enabled (--metrics)" },
    { "static-path*", "use static (--static /route=dir)" },
    { "wsgi", "ASGI applications are served; wrap a WSGI one, e.g. with a2wsgi" },
    { "wsgi-app", "use app" },
    { "app", "the application is the argument without a dash: ringcorn module:attribute" },
    { "host", IS_BIND },
    { "port", IS_BIND },
    { "uds", IS_BIND },
    { "fd", IS_BIND },
    { "config", "the file is named on the command line: -c FILE" },
    { "env-file", "the file is named on the command line: --env-file FILE" },
};

const char *
names_advice(const char *name)
{
    char plain[NAME_MAX_KEY];
    size_t n = strlen(name);
    if (n >= sizeof(plain))
        return NULL;
    /* "-D" and "-d" are two options; in longer names case does not count (RINGCORN_RELOAD). */
    for (size_t i = 0; i <= n; i++)
        plain[i] = name[i] == '_' || name[i] == '.' ? '-'
                   : n > 1                          ? (char)tolower((unsigned char)name[i])
                                                    : name[i];
    for (size_t i = 0; i < ARRAY_LEN(peers); i++) {
        size_t peer = strlen(peers[i].name);
        if (peers[i].name[peer - 1] == '*' ? strncmp(plain, peers[i].name, peer - 1) == 0
                                           : strcmp(plain, peers[i].name) == 0)
            return peers[i].advice;
    }
    return NULL;
}
