/* conf.h: what the operator asked for.
 *
 * One table (schema.c) lists every key once: its name, type, default, bounds, aliases on the
 * command line and a line of help. Parsing (YAML, environment, command line), checking,
 * --print-config, --help and the README's reference are all made from it.
 * Precedence: default < YAML < environment < command line.
 *
 *   load.c    the order of the sources; faults     schema.c  the table of keys and their names
 *   value.c   text into values                     bind.c    what an address may look like
 *   yaml.c    the YAML file, by libyaml            env.c     RINGCORN_*, PORT, ..., --env-file
 *   cli.c     the command line                     check.c   rules between keys
 *   names.c   nearest right names, advice          dump.c    --print-config, --help, the reference
 *   static.c  folders of static files              routes.c  what time requests have, by their path
 *   cpus.c    how many CPUs there are for us       network.c addresses and networks that are trusted
 *   memory.c  and how much memory; cgroup.c        upstream.c  bind, as nginx has it
 *   access.c  the format of the access log
 *   load.h    what these files share               json_doc.h reads JSON
 *
 * No Python, no sockets here. A loaded struct conf is never changed: a reload loads another one. */
#ifndef RINGCORN_CONF_H
#define RINGCORN_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Exit codes of the program (README "Exit codes"). */
enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_SYSTEM = 1,    /* sockets, files, permissions */
    EXIT_CODE_USAGE = 2,     /* command line, environment or YAML */
    EXIT_CODE_APP = 3,       /* exception at import or start, crash loop */
    EXIT_CODE_NOT_FOUND = 4, /* module or attribute not found */
};

enum conf_io { CONF_IO_AUTO, CONF_IO_URING, CONF_IO_EPOLL };
enum conf_interface { CONF_INTERFACE_AUTO, CONF_INTERFACE_ASGI, CONF_INTERFACE_WSGI };
enum conf_affinity { CONF_AFFINITY_REQUEST, CONF_AFFINITY_TRANSACTION, CONF_AFFINITY_CALL };
enum conf_ws_lease { CONF_WS_LEASE_MESSAGE, CONF_WS_LEASE_CALL, CONF_WS_LEASE_CONNECTION };
enum conf_switch { CONF_SWITCH_AUTO, CONF_SWITCH_OFF };
enum conf_guard { CONF_GUARD_OFF, CONF_GUARD_WARN, CONF_GUARD_RAISE };
enum conf_trailers { CONF_TRAILERS_DROP, CONF_TRAILERS_PASS }; /* of requests */
enum conf_orphans { CONF_ORPHANS_OFF, CONF_ORPHANS_ON, CONF_ORPHANS_CANCEL };
enum conf_lifespan { CONF_LIFESPAN_AUTO, CONF_LIFESPAN_ON, CONF_LIFESPAN_OFF };

/* Which refusals of the strict HTTP/1.1 parser are lifted (http.lenient). */
enum conf_lenient {
    LENIENT_BARE_LF = 1 << 0,      /* a line that ends with LF alone */
    LENIENT_OBS_FOLD = 1 << 1,     /* a header continued on the next line */
    LENIENT_HEADER_VALUE = 1 << 2, /* control characters in header values */
};

/* Which headers of a proxy are believed (proxy.headers). */
enum conf_proxy_header {
    PROXY_X_FOR = 1 << 0,
    PROXY_X_PROTO = 1 << 1,
    PROXY_X_HOST = 1 << 2,
    PROXY_X_PORT = 1 << 3,
    PROXY_X_PREFIX = 1 << 4,
    PROXY_FORWARDED = 1 << 5,
    PROXY_X_REAL_IP = 1 << 6,
};

/* Versions of the PROXY protocol that are read, ored. */
enum conf_proxy_protocol { PROXY_PROTOCOL_OFF, PROXY_PROTOCOL_V1, PROXY_PROTOCOL_V2 };

/* An entry of proxy.trusted, parsed. */
struct conf_network {
    uint8_t family;         /* AF_INET, AF_INET6, AF_UNIX; AF_UNSPEC = everybody */
    uint8_t bits;           /* of addr that count */
    unsigned char addr[16]; /* IPv4 as ::ffff:a.b.c.d */
};

/* Requests whose queries are cancelled when their client has gone (cancel.methods). */
enum conf_method {
    METHOD_GET = 1 << 0,
    METHOD_HEAD = 1 << 1,
    METHOD_POST = 1 << 2,
    METHOD_PUT = 1 << 3,
    METHOD_PATCH = 1 << 4,
    METHOD_DELETE = 1 << 5,
    METHOD_OPTIONS = 1 << 6,
};

enum conf_tls_version { CONF_TLS_1_2, CONF_TLS_1_3 };
enum conf_client_verify { CONF_CLIENT_NONE, CONF_CLIENT_OPTIONAL, CONF_CLIENT_REQUIRED };

enum conf_bind_kind { CONF_BIND_TCP, CONF_BIND_UNIX, CONF_BIND_FD, CONF_BIND_SYSTEMD };
enum conf_scheme { CONF_SCHEME_ANY, CONF_SCHEME_HTTP, CONF_SCHEME_HTTPS };

/* One entry of `bind`, parsed. */
struct conf_bind {
    enum conf_bind_kind kind;
    enum conf_scheme scheme; /* TCP: as written; ANY is TLS where there is a certificate */
    char *text;              /* as written, for messages */
    char *host;    /* TCP: literal address or name, without brackets; "" = all addresses */
    uint16_t port; /* TCP; 0 = any free port, resolved once at start */
    char *path;    /* UNIX; {slot} in it stands for each worker's number */
    int fd;        /* FD */
};

struct conf_strings {
    char **v;
    size_t n;
};

/* What a part of a line of the access log is made of (access_log.format). */
enum conf_access_atom {
    ACCESS_TEXT,            /* as it is */
    ACCESS_CLIENT,          /* h */
    ACCESS_DASH,            /* l */
    ACCESS_USER,            /* u */
    ACCESS_TIME,            /* t */
    ACCESS_REQUEST,         /* r */
    ACCESS_STATUS,          /* s */
    ACCESS_METHOD,          /* m */
    ACCESS_PATH,            /* U */
    ACCESS_QUERY,           /* q */
    ACCESS_PROTOCOL,        /* H */
    ACCESS_BYTES,           /* b, B */
    ACCESS_SECONDS,         /* T */
    ACCESS_MILLISECONDS,    /* M */
    ACCESS_MICROSECONDS,    /* D */
    ACCESS_DECIMAL_SECONDS, /* L */
    ACCESS_PID,             /* p */
    ACCESS_ID,              /* id: the request's */
    ACCESS_REQUEST_HEADER,  /* {name}i, f, a, {HTTP_NAME}e */
    ACCESS_RESPONSE_HEADER, /* {name}o */
    ACCESS_TARGET,          /* {RAW_URI}e, {REQUEST_URI}e */
    ACCESS_CLIENT_PORT,     /* {REMOTE_PORT}e */
    ACCESS_SERVER_NAME,     /* {SERVER_NAME}e */
    ACCESS_SERVER_PORT,     /* {SERVER_PORT}e */
    ACCESS_SCHEME,          /* {wsgi.url_scheme}e */
    ACCESS_JSON,            /* all of it: an object */
};

struct conf_access_part {
    enum conf_access_atom atom;
    char *text; /* TEXT, or the header's name in lower case; else NULL */
    size_t n;   /* bytes of text */
};

struct conf_header {
    char *name, *value;
};

/* Which symbolic links below a folder are followed: none, those that stay inside, all. */
enum conf_symlinks { CONF_SYMLINKS_OFF, CONF_SYMLINKS_INSIDE, CONF_SYMLINKS_ON };

enum conf_otel { CONF_OTEL_AUTO, CONF_OTEL_ON, CONF_OTEL_OFF };

/* What the master tells by events.command and events.webhook: bits of events.kinds. The words are in schema.c. */
enum conf_event {
    EVENT_CRASH_LOOP,   /* workers die again and again before they are of use */
    EVENT_WORKER_DIED,  /* by a signal or an exit that nobody asked for */
    EVENT_WORKER_HUNG,  /* timeouts.worker */
    EVENT_LOOP_BLOCKED, /* for a second, by the application */
    EVENT_RELOAD_FAILED,
    EVENT_POOL_EXHAUSTED, /* requests were refused: no thread, or no room */
    EVENT_CERTIFICATE,    /* ends soon */
    EVENTS,
};

/* A URL, taken apart. */
struct conf_url {
    bool is_tls;
    char host[256]; /* a name or an address, without brackets */
    uint16_t port;
    const char *target; /* path and query; borrowed from the text */
};

/* An entry of `static`: files below a folder, answered by the server itself. */
struct conf_static {
    char *route;        /* "/static", without a slash at its end; "" = all paths */
    char *dir;          /* absolute */
    char *index;        /* of folders; NULL = they are not found */
    int64_t expires_ms; /* for Cache-Control; 0 = none is sent */
    enum conf_symlinks symlinks;
    bool dotfiles;      /* names that begin with a dot are served too */
    bool precompressed; /* name.br and name.gz are sent in place of name, where they are there */
    bool fallthrough;   /* what is not there is the application's to answer; else 404 */
};

/* How many instances of a service there are, and what follows its end. */
enum conf_scope { CONF_SCOPE_ONE, CONF_SCOPE_WORKER };
enum conf_restart { CONF_RESTART_ALWAYS, CONF_RESTART_ON_FAILURE, CONF_RESTART_NEVER };

enum { CONF_SERVICES_MAX = 64 };

/* An entry of `services`: a function that runs beside the site. */
struct conf_service {
    char *name, *run; /* "bot", "mysite.bot:main" */
    enum conf_scope scope;
    enum conf_restart restart;
};

struct conf {
    char *app; /* "module:attribute" or "module:make()", as written; NULL when not given */
    bool factory;
    char *app_dir; /* "." by default; absolute after loading */
    struct conf_strings python_path;
    enum conf_interface interface;

    struct conf_bind *binds;
    size_t binds_n;
    mode_t uds_mode; /* 0666 by default */
    char *uds_owner; /* "user", "user:group", or NULL */
    unsigned backlog;
    unsigned workers; /* `auto` is resolved: conf_cpus() */
    bool preload;     /* a process imports the application and forks the workers */
    bool reuse_port;
    enum conf_io io;

    /* 0 = auto: 8 for Django and WSGI, 40 elsewhere, decided in the worker */
    unsigned sync_threads;
    unsigned sync_threads_max; /* never less than sync_threads in effect */
    enum conf_affinity sync_affinity;
    enum conf_ws_lease sync_websocket;
    unsigned sync_executor_threads;
    unsigned sync_queue;
    enum conf_switch sync_loop_first;
    int64_t sync_queue_timeout_ms, sync_idle_timeout_ms, sync_park_close_db_ms; /* 0 = off */

    enum conf_switch django_one_hop;
    char *django_conn_max_age; /* "inherit", "none" or seconds */
    bool django_start_hop_is_moved;
    bool anyio_threads_are_stock;

    char *user, *group, *pid_file, *name;

    /* Milliseconds; 0 = off (startup and graceful: no limit). */
    int64_t timeout_header_ms, timeout_body_ms, timeout_send_ms, timeout_keep_alive_ms;
    int64_t timeout_graceful_ms, timeout_startup_ms, timeout_worker_ms, timeout_handshake_ms;
    int64_t timeout_request_ms, timeout_drain_delay_ms;
    unsigned timeout_body_rate;         /* bytes a second; 0 = off */
    struct conf_strings timeout_routes; /* "/report/=5s", each is right */

    bool cancel_queries;
    unsigned cancel_methods; /* enum conf_method, ored */

    /* Bytes, or counts; 0 = off where the reference says so. */
    size_t limit_request_line, limit_header_size, limit_headers;
    uint64_t limit_body;
    unsigned limit_connections, limit_handshakes;
    unsigned limit_concurrency, limit_queue;
    int64_t limit_queue_timeout_ms;

    bool ws_enabled;
    uint64_t ws_max_size; /* bytes of a message, inflated */
    unsigned ws_queue;    /* messages that wait for the application before reading stops */
    int64_t ws_ping_interval_ms, ws_ping_timeout_ms, ws_drain_ms; /* 0 = off */
    unsigned ws_drain_code;
    bool ws_deflate;
    unsigned ws_deflate_window_bits, ws_deflate_mem_level, ws_deflate_level;
    bool ws_deflate_no_takeover;
    size_t ws_deflate_min_size, ws_deflate_memory; /* bytes; memory: 0 = off */

    /* enum conf_proxy_header, enum conf_proxy_protocol, each ored. */
    unsigned proxy_headers, proxy_protocol;
    struct conf_strings proxy_trusted; /* each is right: conf_network_parse() */

    /* Lists go together by place: the first key belongs to the first certificate. */
    struct conf_strings tls_cert, tls_key; /* no tls_cert: nothing is TLS */
    struct conf_strings tls_ocsp;          /* in any order */
    char *tls_key_password_file, *tls_client_ca, *tls_crl;
    enum conf_client_verify tls_client_verify;
    enum conf_tls_version tls_min_version;
    char *tls_ciphers;
    int64_t tls_ticket_rotation_ms, tls_watch_ms; /* 0 = off */

    char *root_path;
    enum conf_lifespan lifespan;
    unsigned http_lenient; /* enum conf_lenient, ored */
    enum conf_trailers http_trailers;
    bool server_header, date_header;
    struct conf_static *statics;
    size_t statics_n;
    struct conf_header *headers; /* added to every answer */
    size_t headers_n;

    int log_level;  /* enum log_level of base/log.h */
    char *log_file; /* NULL = standard error */
    bool log_is_json;
    char *log_config; /* for Python's logging; NULL = none */
    bool access_log;
    char *access_log_file; /* NULL = standard output */
    char *access_log_format;
    struct conf_strings access_log_exclude; /* paths, prefixes that end in a slash, patterns */
    char *access_log_sample;

    bool request_id;         /* requests have one */
    char *request_id_header; /* lower case */
    bool request_id_respond;

    unsigned recycle_max_requests, recycle_jitter; /* max_requests: 0 = off */
    int64_t recycle_max_age_ms;                    /* 0 = off */
    uint64_t recycle_max_rss;                      /* bytes; 0 = off */

    bool reload_enabled;
    struct conf_strings reload_dirs; /* absolute; empty = app_dir and python_path */
    struct conf_strings reload_include, reload_exclude;
    int64_t reload_delay_ms;

    char *health_live, *health_ready; /* paths; NULL = off */
    char *health_bind;                /* NULL = answered on binds */
    int64_t health_timeout_ms;        /* of --healthcheck */

    bool metrics_enabled;
    char *metrics_path;
    char *metrics_bind; /* NULL = answered on binds */
    bool metrics_page;  /* on metrics_bind */

    enum conf_guard guard_mode;
    int64_t guard_loop_block_ms; /* 0 = off */
    bool guard_unawaited, guard_lost, guard_sync, guard_transactions, guard_sessions;
    int64_t guard_threads_ms; /* 0 = off */
    bool guard_unclosed, guard_swallowed;
    enum conf_orphans guard_orphans;
    int64_t guard_disconnect_grace_ms; /* 0 = off */
    char *control_socket;              /* a path; NULL = off */
    mode_t control_mode;

    struct conf_strings hook_post_fork, hook_when_ready, hook_worker_exit, hook_on_reload;
    struct conf_service *services; /* at most CONF_SERVICES_MAX */
    size_t services_n;

    struct conf_strings events_command; /* a program and its arguments; empty = none */
    char *events_webhook;               /* a URL that conf_url_parse() takes; NULL = none */
    unsigned events_kinds;              /* 1 << enum conf_event, ored */
    int64_t events_interval_ms;         /* between two of one kind; 0 = no limit */
    unsigned events_certificate_days;   /* before its end; 0 = never */

    enum conf_otel otel;
    bool debug;  /* clients see tracebacks */
    char *shake; /* a seed that shake_parse() takes; NULL = not in shake mode */

    char *venv; /* folder of a virtual environment, or NULL; VIRTUAL_ENV is the default */
    struct conf_strings import_first;
    struct conf_strings python_options; /* as after -X, e.g. "dev", "utf8=1" */

    /* No keys, and so not printed: */
    struct conf_strings env; /* "NAME=value" of --env-file; conf_export_env() */
    char *file;              /* the YAML file that was read, as named; NULL = none */
    /* health_bind, control_socket and, where they are enabled, metrics_bind, parsed; text NULL where there is none */
    struct conf_bind health_at, control_at, metrics_at;
    struct conf_access_part *access_parts; /* access_log.format, parsed */
    size_t access_parts_n;
    unsigned access_sample_ppm; /* access_log.sample in millionths */
    int64_t *timeout_routes_ms; /* of each of timeout_routes; 0 = off */
};

/* Workers are asked for their requests, tasks and threads: by ringcornctl or by the status page. */
static inline bool
conf_asks_workers(const struct conf *conf)
{
    return conf->control_socket != NULL || conf->metrics_page;
}

/* What the command line asked for beside a server. */
enum conf_action {
    CONF_RUN,
    CONF_CHECK,     /* --check-config */
    CONF_PRINT,     /* --print-config */
    CONF_HEALTH,    /* --healthcheck: asks the running server */
    CONF_VERSION,   /* --version */
    CONF_HELP,      /* --help */
    CONF_REFERENCE, /* --config-reference: the table of keys as Markdown, for the README */
};

/* Loads the configuration. Every error is printed by log_operator(), one line each, naming file and
 * line, variable or option, the value, and what would be right; all errors are reported, not only
 * the first.
 *
 * argv stays the caller's and must outlive a reload. On success *out is new
 * (conf_free()); NULL for CONF_VERSION, CONF_HELP and CONF_REFERENCE, which need none. On failure
 * *action and *out are untouched. conf->app is never NULL for CONF_RUN. Paths come out absolute,
 * except those in binds. Master only; not thread-safe.
 * Returns 0 or -EXIT_CODE_USAGE (bad input) or -EXIT_CODE_SYSTEM (a file that cannot be read). */
int conf_load(int argc, char **argv, enum conf_action *action, struct conf **out);
void conf_free(struct conf *conf);

/* Puts conf->env into the environment: for a worker, before Python starts. Returns 0 or -ENOMEM. */
int conf_export_env(const struct conf *conf);

/* Each writes to a stream of the caller's. */
/* YAML; loading it again gives the same struct conf */
void conf_print(const struct conf *conf, FILE *out);
/* An upstream block for nginx. 0, or -1 where memory ran out. */
int conf_print_upstream(const struct conf *conf, FILE *out);
void conf_print_help(FILE *out);
void conf_print_reference(FILE *out);

/* CPUs this process may use: the affinity mask bounded by the cgroup's quota (v2 cpu.max, v1 cfs),
 * rounded up, at least 1. */
unsigned conf_cpus(void);
/* Bytes that the cgroup's limit leaves this process and its children (v2 memory.max, v1 memory.limit_in_bytes); 0 = no limit. */
uint64_t conf_memory(void);
/* Another number whenever the kernel has killed a process for want of memory: of our control group, or, where none has died there,
 * of the machine. */
uint64_t conf_oom_kills(void);

/* Returns 0, or -EINVAL with why filled in and *out untouched. */
int conf_network_parse(const char *text, struct conf_network *out, char *why, size_t why_size);

/* "crash_loop" and so on. */
const char *conf_event_word(enum conf_event kind);
/* http:// or https://; errors as above. */
int conf_url_parse(const char *text, struct conf_url *out, char *why, size_t why_size);

/* Whether cancel.methods has that method, and cancel.queries is on. */
bool conf_cancels(const struct conf *conf, const char *method, size_t n);
/* What timeouts.routes has for that path, ms; 0 = no limit; -1 = none of its entries fits. */
int64_t conf_route_timeout_ms(const struct conf *conf, const char *path, size_t n);

/* The entry of names[0..n) nearest to text (edit distance), or NULL when none is near. */
const char *conf_nearest(const char *text, const char *const *names, size_t n);

#endif
