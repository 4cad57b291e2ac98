/* schema.c: the table of all keys, and the spellings of their names.
 *
 * One rule makes the names: `group.key` in YAML is --group-key on the command line and
 * RINGCORN_GROUP_KEY in the environment. A row's place is its place in --print-config, --help and
 * the reference; keys of a group stand together. */
#include <ctype.h>
#include <errno.h>
#include <strings.h>

#include "base/shake.h"
#include "conf/load.h"

#define FIELD(name) offsetof(struct conf, name), sizeof(((struct conf *)0)->name)

enum { KIB = 1024, MIB = 1024 * 1024, SECOND = 1000, DAY = 24 * 3600 * SECOND };

static const struct key_word interface_words[] = { { "auto", CONF_INTERFACE_AUTO },
                                                   { "asgi", CONF_INTERFACE_ASGI },
                                                   { "wsgi", CONF_INTERFACE_WSGI },
                                                   { NULL, 0 } };

static const struct key_word affinity_words[] = { { "request", CONF_AFFINITY_REQUEST },
                                                  { "transaction", CONF_AFFINITY_TRANSACTION },
                                                  { "call", CONF_AFFINITY_CALL },
                                                  { NULL, 0 } };

static const struct key_word ws_lease_words[] = { { "message", CONF_WS_LEASE_MESSAGE },
                                                  { "call", CONF_WS_LEASE_CALL },
                                                  { "connection", CONF_WS_LEASE_CONNECTION },
                                                  { NULL, 0 } };

static const struct key_word switch_words[] = { { "auto", CONF_SWITCH_AUTO },
                                                { "off", CONF_SWITCH_OFF },
                                                { NULL, 0 } };

static const struct key_word start_hop_words[] = { { "stock", false },
                                                   { "move", true },
                                                   { NULL, 0 } };

static const struct key_word anyio_words[] = { { "auto", false }, { "stock", true }, { NULL, 0 } };

static const struct key_word io_words[] = {
    { "auto", CONF_IO_AUTO }, { "io_uring", CONF_IO_URING }, { "epoll", CONF_IO_EPOLL }, { NULL, 0 }
};

static const struct key_word tls_version_words[] = { { "1.2", CONF_TLS_1_2 },
                                                     { "1.3", CONF_TLS_1_3 },
                                                     { "TLSv1.3", CONF_TLS_1_3 },
                                                     { "TLSv1.2", CONF_TLS_1_2 },
                                                     { NULL, 0 } };

/* The numbers are those of Python's ssl.CERT_*, which uvicorn's and gunicorn's options take. */
static const struct key_word client_verify_words[] = { { "none", CONF_CLIENT_NONE },
                                                       { "optional", CONF_CLIENT_OPTIONAL },
                                                       { "required", CONF_CLIENT_REQUIRED },
                                                       { "2", CONF_CLIENT_REQUIRED },
                                                       { "1", CONF_CLIENT_OPTIONAL },
                                                       { "0", CONF_CLIENT_NONE },
                                                       { NULL, 0 } };

static const struct key_word trailers_words[] = { { "drop", CONF_TRAILERS_DROP },
                                                  { "pass", CONF_TRAILERS_PASS },
                                                  { 0 } };
static const struct key_word lifespan_words[] = { { "auto", CONF_LIFESPAN_AUTO },
                                                  { "on", CONF_LIFESPAN_ON },
                                                  { "off", CONF_LIFESPAN_OFF },
                                                  { NULL, 0 } };

static const struct key_word lenient_words[] = { { "bare_lf", LENIENT_BARE_LF },
                                                 { "obs_fold", LENIENT_OBS_FOLD },
                                                 { "header_value", LENIENT_HEADER_VALUE },
                                                 { NULL, 0 } };

static const struct key_word proxy_header_words[] = {
    { "X-Forwarded-For", PROXY_X_FOR },       { "X-Forwarded-Proto", PROXY_X_PROTO },
    { "X-Forwarded-Host", PROXY_X_HOST },     { "X-Forwarded-Port", PROXY_X_PORT },
    { "X-Forwarded-Prefix", PROXY_X_PREFIX }, { "Forwarded", PROXY_FORWARDED },
    { "X-Real-IP", PROXY_X_REAL_IP },         { NULL, 0 }
};

static const struct key_word proxy_protocol_words[] = { { "off", PROXY_PROTOCOL_OFF },
                                                        { "v1", PROXY_PROTOCOL_V1 },
                                                        { "v2", PROXY_PROTOCOL_V2 },
                                                        { "auto",
                                                          PROXY_PROTOCOL_V1 | PROXY_PROTOCOL_V2 },
                                                        { NULL, 0 } };

#define PROXY_HEADERS_DEFAULT "X-Forwarded-For,X-Forwarded-Proto"

static const struct key_word otel_words[] = {
    { "auto", CONF_OTEL_AUTO }, { "on", CONF_OTEL_ON }, { "off", CONF_OTEL_OFF }, { NULL, 0 }
};

/* In the order of enum conf_event. */
static const struct key_word event_words[] = { { "crash_loop", 1U << EVENT_CRASH_LOOP },
                                               { "worker_died", 1U << EVENT_WORKER_DIED },
                                               { "worker_hung", 1U << EVENT_WORKER_HUNG },
                                               { "loop_blocked", 1U << EVENT_LOOP_BLOCKED },
                                               { "reload_failed", 1U << EVENT_RELOAD_FAILED },
                                               { "pool_exhausted", 1U << EVENT_POOL_EXHAUSTED },
                                               { "certificate_expires", 1U << EVENT_CERTIFICATE },
                                               { NULL, 0 } };
#define EVENTS_DEFAULT                                                                             \
    "crash_loop,worker_died,worker_hung,loop_blocked,reload_failed,pool_exhausted,"                \
    "certificate_expires"

const char *
conf_event_word(enum conf_event kind)
{
    return event_words[kind].word;
}

static const struct key_word log_format_words[] = { { "text", false },
                                                    { "json", true },
                                                    { NULL, 0 } };

static const struct key_word guard_words[] = { { "off", CONF_GUARD_OFF },
                                               { "warn", CONF_GUARD_WARN },
                                               { "raise", CONF_GUARD_RAISE },
                                               { NULL, 0 } };

static const struct key_word orphans_words[] = { { "on", CONF_ORPHANS_ON },
                                                 { "off", CONF_ORPHANS_OFF },
                                                 { "cancel", CONF_ORPHANS_CANCEL },
                                                 { NULL, 0 } };

static const struct key_word level_words[] = { { "debug", LOG_DEBUG },     { "info", LOG_INFO },
                                               { "warning", LOG_WARNING }, { "error", LOG_ERROR },
                                               { "critical", LOG_ERROR },  { NULL, 0 } };

static bool
is_name_byte(unsigned char c, bool is_first)
{
    return isalpha(c) || c == '_' || c >= 0x80 || (!is_first && isdigit(c));
}

/* Reads names joined by dots; returns where they end, or NULL when they are none. */
static const char *
skip_dotted(const char *p)
{
    for (;; p++) {
        if (!is_name_byte((unsigned char)*p, true))
            return NULL;
        while (is_name_byte((unsigned char)*p, false))
            p++;
        if (*p != '.')
            return p;
    }
}

/* module:attribute, with dots in both; "()" behind it calls a factory, as gunicorn has it. */
static int
app_fault(const char *text, char *why, size_t why_size)
{
    const char *p = skip_dotted(text);
    if (strchr(text, ':') == NULL) {
        snprintf(why, why_size, "names a module only; write module:attribute");
        return -EINVAL;
    }
    if (strchr(text, '/') != NULL || strstr(text, ".py:") != NULL) {
        snprintf(why, why_size,
                 "is a file name; write module:attribute (and --app-dir for its folder)");
        return -EINVAL;
    }
    if (p != NULL && *p == ':')
        p = skip_dotted(p + 1);
    else
        p = NULL;
    if (p != NULL && (*p == '\0' || strcmp(p, "()") == 0))
        return 0;
    if (p != NULL && *p == '(')
        snprintf(why, why_size,
                 "calls with arguments, which is not supported; write module:make()");
    else
        snprintf(why, why_size, "is not of the form module:attribute");
    return -EINVAL;
}

static int
module_fault(const char *text, char *why, size_t why_size)
{
    const char *p = skip_dotted(text);
    if (p != NULL && *p == '\0')
        return 0;
    snprintf(why, why_size, "is not a module's name");
    return -EINVAL;
}

static int
owner_fault(const char *text, char *why, size_t why_size)
{
    const char *colon = strchr(text, ':');
    if (text[0] != ':' && (colon == NULL || (colon[1] != '\0' && strchr(colon + 1, ':') == NULL)))
        return 0;
    snprintf(why, why_size, "is neither user nor user:group");
    return -EINVAL;
}

static int
conn_max_age_fault(const char *text, char *why, size_t why_size)
{
    size_t digits = strspn(text, "0123456789");
    if (strcasecmp(text, "inherit") == 0 || strcasecmp(text, "none") == 0 ||
        (digits > 0 && digits < 10 && text[digits] == '\0'))
        return 0;
    snprintf(why, why_size, "is neither inherit, none nor a number of seconds");
    return -EINVAL;
}

static int
shake_fault(const char *text, char *why, size_t why_size)
{
    struct shake shake;
    if (shake_parse(&shake, text, strlen(text)) == 0)
        return 0;
    snprintf(why, why_size,
             "is no seed: a number and, if not all of them, kinds of disturbance, such as 17 or "
             "17:order,hops; there are");
    for (unsigned i = 0; i < SHAKE_KINDS; i++) {
        size_t n = strlen(why);
        snprintf(why + n, why_size - n, "%s %s", i > 0 ? "," : "",
                 shake_kind_name((enum shake_kind)i));
    }
    return -EINVAL;
}

static int
root_path_fault(const char *text, char *why, size_t why_size)
{
    if (text[0] == '\0' || (text[0] == '/' && strpbrk(text, "?#") == NULL))
        return 0;
    snprintf(why, why_size, "is not a path like /api");
    return -EINVAL;
}

static int
network_fault(const char *text, char *why, size_t why_size)
{
    struct conf_network network;
    return conf_network_parse(text, &network, why, why_size);
}

static int
metrics_path_fault(const char *text, char *why, size_t why_size)
{
    if (text[0] == '/' && strpbrk(text, " ?#") == NULL)
        return 0;
    snprintf(why, why_size, "is not a path like /metrics");
    return -EINVAL;
}

static int
health_path_fault(const char *text, char *why, size_t why_size)
{
    if (strcmp(text, "off") == 0 || (text[0] == '/' && strpbrk(text, " ?#") == NULL))
        return 0;
    snprintf(why, why_size, "is neither off nor a path like /health/live");
    return -EINVAL;
}

static int
own_bind_fault(const char *text, char *why, size_t why_size)
{
    struct conf_bind bind = { 0 };
    int error = bind_parse(text, &bind, why, why_size);
    if (error == 0 && ((bind.kind != CONF_BIND_TCP && bind.kind != CONF_BIND_UNIX) ||
                       bind.scheme == CONF_SCHEME_HTTPS)) {
        snprintf(why, why_size,
                 "is not one that can be asked in plain HTTP; write host:port or unix:/path");
        error = -EINVAL;
    }
    bind_free(&bind);
    return error;
}

static int
url_fault(const char *text, char *why, size_t why_size)
{
    struct conf_url url;
    return conf_url_parse(text, &url, why, why_size);
}

static int
control_socket_fault(const char *text, char *why, size_t why_size)
{
    if (strcmp(text, "off") == 0 || (text[0] != '\0' && strchr(text, '{') == NULL))
        return 0;
    snprintf(why, why_size, "is neither off nor a path like /run/ringcorn.sock");
    return -EINVAL;
}

static int
request_header_fault(const char *text, char *why, size_t why_size)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
    if (n > 0 && n <= REQUEST_ID_NAME_MAX && text[n] == '\0')
        return 0;
    snprintf(why, why_size, "is not the name of a header, of at most %d letters",
             REQUEST_ID_NAME_MAX);
    return -EINVAL;
}

const struct key schema[] = {
    { "app", KEY_TEXT, FIELD(app), NULL, NULL,
      "the application: module:attribute, or module:make()", .value = "APP", .fault = app_fault,
      .is_positional = true },
    { "factory", KEY_BOOL, FIELD(factory), "false", NULL,
      .help = "the attribute is a function that makes the application" },
    { "app_dir", KEY_PATH, FIELD(app_dir), ".", "--chdir",
      "folder the application is imported from", .value = "DIR" },
    { "python_path", KEY_PATHS, FIELD(python_path), NULL, NULL,
      "more folders to import from, before the environment's own", .value = "DIR" },
    { "interface", KEY_WORD, FIELD(interface), "auto", NULL, "how the application is called",
      .words = interface_words },

    { "bind", KEY_BINDS, FIELD(binds), "127.0.0.1:8000", "-b",
      "addresses to listen on: host:port, [v6]:port, :port (all addresses), unix:/path ({slot} in "
      "it: one for each worker), fd://N, systemd; http://host:port without TLS where tls.cert is "
      "set",
      .value = "ADDRESS" },
    { "uds.mode", KEY_MODE, FIELD(uds_mode), "0666", NULL, .help = "permissions of unix sockets" },
    { "uds.owner", KEY_TEXT, FIELD(uds_owner), NULL, NULL,
      "owner of unix sockets: user or user:group", .value = "OWNER", .fault = owner_fault },
    { "backlog", KEY_COUNT, FIELD(backlog), "2048", NULL,
      "connections the kernel holds before they are accepted (it allows net.core.somaxconn at "
      "most)",
      .min = 1, .max = 65535 },
    { "workers", KEY_COUNT, FIELD(workers), "1", "-w",
      "worker processes; auto = the CPUs that the affinity mask and the cgroup grant", .min = 1,
      .max = 1024, .zero = "auto" },
    { "preload", KEY_BOOL, FIELD(preload), "false", NULL,
      .help =
          "a process imports the application once and forks the workers, which share its memory" },
    { "reuse_port", KEY_BOOL, FIELD(reuse_port), "true", NULL,
      .help = "a TCP listener for each worker; false = one that all share" },
    { "io", KEY_WORD, FIELD(io), "auto", NULL,
      "how the loop waits; auto = io_uring where the kernel lets it", .words = io_words },

    { "sync.threads", KEY_COUNT, FIELD(sync_threads), "auto", "--threads",
      "synchronous calls of a worker that run at once, and its threads and database connections in "
      "steady state; auto = 8 for Django and WSGI, 40 elsewhere",
      .min = 1, .max = 1024, .zero = "auto" },
    { "sync.threads_max", KEY_COUNT, FIELD(sync_threads_max), "64", NULL,
      "the most threads of the worst minute: requests that await something keep theirs (never less "
      "than sync.threads)",
      .min = 1, .max = 4096 },
    { "sync.affinity", KEY_WORD, FIELD(sync_affinity), "request", NULL,
      "how long a thread belongs to a request: to its end, while a transaction is open, or a call",
      .words = affinity_words },
    { "sync.websocket", KEY_WORD, FIELD(sync_websocket), "message", NULL,
      "how long a thread belongs to a WebSocket: while it handles a message, for a call, or for "
      "its "
      "life",
      .words = ws_lease_words },
    { "sync.executor_threads", KEY_COUNT, FIELD(sync_executor_threads), "32", NULL,
      "threads of a worker for asyncio.to_thread, run_in_executor(None, ...), name look-ups and "
      "files",
      .min = 1, .max = 1024 },
    { "sync.loop_first", KEY_WORD, FIELD(sync_loop_first), "auto", NULL,
      "the event loop goes before threads that compute in Python; off = as Python does it",
      .words = switch_words },
    { "sync.queue", KEY_COUNT, FIELD(sync_queue), "1000", NULL,
      "requests that may wait for a thread; then 503", .min = 1, .max = 1000 * 1000 },
    { "sync.queue_timeout", KEY_DURATION, FIELD(sync_queue_timeout_ms), "30s", NULL,
      "for a request to wait for a thread; then 503", .max = DAY, .zero = "off" },
    { "sync.idle_timeout", KEY_DURATION, FIELD(sync_idle_timeout_ms), "60s", NULL,
      "until an idle thread above sync.threads ends", .max = DAY, .zero = "off" },
    { "sync.park_close_db", KEY_DURATION, FIELD(sync_park_close_db_ms), "off", NULL,
      "until the clean database connection of a request that awaits something else is closed",
      .max = DAY, .zero = "off" },

    { "django.one_hop", KEY_WORD, FIELD(django_one_hop), "auto", NULL,
      "a synchronous Django view and its middleware run in one crossing to a thread",
      .words = switch_words },
    { "django.conn_max_age", KEY_TEXT, FIELD(django_conn_max_age), "inherit", NULL,
      "CONN_MAX_AGE of every database: as the settings say, none (no limit), or seconds",
      .value = "inherit|none|SECONDS", .fault = conn_max_age_fault },
    { "django.start_hop", KEY_WORD, FIELD(django_start_hop_is_moved), "move", NULL,
      "where Django's own receivers of request_started run: on the request's thread when it gets "
      "one, or as Django has it",
      .words = start_hop_words },

    { "anyio.threads", KEY_WORD, FIELD(anyio_threads_are_stock), "auto", NULL,
      "auto = calls that AnyIO (Starlette, FastAPI) sends to threads run on the request's own; "
      "stock = only their number is set",
      .words = anyio_words },

    { "user", KEY_TEXT, FIELD(user), NULL, "-u", "user to become once sockets and logs are open",
      .value = "USER" },
    { "group", KEY_TEXT, FIELD(group), NULL, "-g", "group to become once sockets and logs are open",
      .value = "GROUP" },
    { "pid_file", KEY_PATH, FIELD(pid_file), NULL, "--pid",
      .help = "file for the master's process id" },
    { "name", KEY_TEXT, FIELD(name), NULL, "-n", "the name ps shows", .value = "NAME" },

    { "timeouts.header", KEY_DURATION, FIELD(timeout_header_ms), "10s", "--timeout-header",
      "for a request's head to arrive; then 408", .max = DAY, .zero = "off" },
    { "timeouts.body", KEY_DURATION, FIELD(timeout_body_ms), "30s", "--timeout-body",
      "without a byte of a body the application waits for; then 408", .max = DAY, .zero = "off" },
    { "timeouts.send", KEY_DURATION, FIELD(timeout_send_ms), "60s", "--timeout-send",
      "without the client taking a byte of an answer; then the connection is closed", .max = DAY,
      .zero = "off" },
    { "timeouts.keep_alive", KEY_DURATION, FIELD(timeout_keep_alive_ms), "75s",
      "--keep-alive --timeout-keep-alive",
      "without a request on a connection; longer than nginx's 60s", .max = DAY, .zero = "off" },
    { "timeouts.request", KEY_DURATION, FIELD(timeout_request_ms), "off", "--timeout-request",
      "for a request to be answered, from its head to the answer's end; then 504, or the "
      "connection "
      "is closed where the answer has begun. Streams too",
      .max = DAY, .zero = "off" },
    { "timeouts.routes", KEY_TEXTS, FIELD(timeout_routes), NULL, NULL,
      "the same for some paths, in place of timeouts.request; as a map: path, prefix that ends in "
      "a "
      "slash or pattern, and the time. The first that fits counts; ringcorn.timeout() in the "
      "application outweighs both",
      .value = "PATH=TIME", .fault = route_timeout_fault, .is_map = true },
    { "timeouts.drain_delay", KEY_DURATION, FIELD(timeout_drain_delay_ms), "off", NULL,
      "for which health.ready says 503 before SIGTERM stops anything: load balancers take notice",
      .max = DAY, .zero = "off" },
    { "timeouts.graceful", KEY_DURATION, FIELD(timeout_graceful_ms), "30s",
      "--graceful-timeout --timeout-graceful-shutdown",
      "for requests in hand when a worker leaves; off = no limit", .max = DAY, .zero = "off" },
    { "timeouts.startup", KEY_DURATION, FIELD(timeout_startup_ms), "120s", "--timeout-startup",
      "for a worker to import the application and become ready; off = no limit", .max = DAY,
      .zero = "off" },
    { "timeouts.worker", KEY_DURATION, FIELD(timeout_worker_ms), "30s", "--timeout-worker",
      "for a worker's loop to turn; then its stacks are logged and it is killed and replaced. Not "
      "while it is stopped or debugged, nor with reload.enabled",
      .max = DAY, .zero = "off" },
    { "timeouts.handshake", KEY_DURATION, FIELD(timeout_handshake_ms), "10s", NULL,
      "for a TLS handshake; then the connection is closed", .min = 1, .max = DAY },
    { "timeouts.body_rate", KEY_SIZE, FIELD(timeout_body_rate), "240", NULL,
      "bytes a second that a body must bring on average; then 408", .max = 1024 * MIB,
      .zero = "off" },

    { "limits.request_line", KEY_SIZE, FIELD(limit_request_line), "8KiB", "--limit-request-line",
      "length of method, target and version; then 414", .min = 64, .max = 1 * MIB },
    { "limits.header_size", KEY_SIZE, FIELD(limit_header_size), "64KiB", "--limit-header-size",
      "size of all headers together; then 431", .min = 256, .max = 16 * MIB },
    { "limits.headers", KEY_COUNT, FIELD(limit_headers), "100", "--limit-headers",
      "number of headers; then 431", .min = 1, .max = 10000 },
    { "limits.body", KEY_SIZE, FIELD(limit_body), "off", "--limit-body",
      "size of a request's body; then 413", .max = INT64_MAX, .zero = "off" },
    { "limits.connections", KEY_COUNT, FIELD(limit_connections), "10000",
      "--limit-connections --worker-connections",
      "open connections of a worker (less where the limit of descriptors is smaller)", .min = 1,
      .max = 10 * 1000 * 1000 },
    { "limits.concurrency", KEY_COUNT, FIELD(limit_concurrency), "off", "--limit-concurrency",
      "requests that a worker has in hand at once, WebSockets until they are accepted; more wait",
      .max = 10 * 1000 * 1000, .zero = "off" },
    { "limits.queue", KEY_COUNT, FIELD(limit_queue), "1000", "--limit-queue",
      "requests of a worker that may wait where limits.concurrency is reached; then 503",
      .max = 1000 * 1000, .zero = "off" },
    { "limits.queue_timeout", KEY_DURATION, FIELD(limit_queue_timeout_ms), "5s",
      "--limit-queue-timeout", "for a request to wait so; then 503", .max = DAY, .zero = "off" },
    { "limits.handshakes", KEY_COUNT, FIELD(limit_handshakes), "1000", NULL,
      "TLS handshakes of a worker that are under way; more wait to be accepted, and from half of "
      "it "
      "on each gets 2 s",
      .min = 1, .max = 10 * 1000 * 1000 },

    { "cancel.queries", KEY_BOOL, FIELD(cancel_queries), "true", NULL,
      .help =
          "what a request's threads run in a database is cancelled when its client has gone, at "
          "its timeout, and at the end of timeouts.graceful: psycopg, psycopg2, sqlite3" },
    { "cancel.methods", KEY_WORDS, FIELD(cancel_methods), "GET,HEAD", NULL,
      "methods of the requests for which that is so when the client has gone",
      .words = method_words, .zero = "none", .value = "METHOD" },

    { "tls.cert", KEY_PATHS, FIELD(tls_cert), NULL, "--ssl-certfile --certfile --ssl-certificate",
      "certificates in PEM, each file one and its chain; their names say which is for whom (SNI), "
      "the first is for all others. All TCP addresses are TLS then",
      .value = "FILE" },
    { "tls.key", KEY_PATHS, FIELD(tls_key), NULL, "--ssl-keyfile --keyfile",
      "their private keys, in the same order; none = they are in the files of tls.cert",
      .value = "FILE" },
    { "tls.key_password_file", KEY_PATH, FIELD(tls_key_password_file), NULL,
      "--ssl-keyfile-password-file",
      .help = "file of the passwords of encrypted keys, one a line" },
    { "tls.min_version", KEY_WORD, FIELD(tls_min_version), "1.2", NULL, "the oldest TLS spoken",
      .words = tls_version_words },
    { "tls.ciphers", KEY_TEXT, FIELD(tls_ciphers), NULL, "--ssl-ciphers --ciphers",
      "as OpenSSL names them, with colons between; those of TLS 1.3 begin with TLS_. None = strong "
      "ones with forward secrecy",
      .value = "LIST" },
    { "tls.client_ca", KEY_PATH, FIELD(tls_client_ca), NULL, "--ssl-ca-certs --ca-certs --ssl-ca",
      .help = "authorities in PEM whose client certificates are accepted" },
    { "tls.client_verify", KEY_WORD, FIELD(tls_client_verify), "none",
      "--ssl-cert-reqs --cert-reqs",
      "whether clients must show a certificate; one that is shown must be right. With "
      "tls.client_ca "
      "the default is required",
      .words = client_verify_words },
    { "tls.crl", KEY_PATH, FIELD(tls_crl), NULL, "--ssl-crl",
      .help = "revoked client certificates: lists in PEM, one of each authority" },
    { "tls.ocsp", KEY_PATHS, FIELD(tls_ocsp), NULL, NULL,
      "OCSP answers (DER) about our certificates, stapled to handshakes", .value = "FILE" },
    { "tls.ticket_rotation", KEY_DURATION, FIELD(tls_ticket_rotation_ms), "12h", NULL,
      "how often all workers get another key for session tickets; sessions can be resumed for that "
      "long; off = none are",
      .max = DAY, .zero = "off" },
    { "tls.watch", KEY_DURATION, FIELD(tls_watch_ms), "10s", NULL,
      "how often the files above are looked at; changed ones are taken for new connections",
      .max = DAY, .zero = "off" },

    { "websocket.enabled", KEY_BOOL, FIELD(ws_enabled), "true", NULL,
      .help = "WebSockets are served; false = Upgrade is ignored" },
    { "websocket.max_size", KEY_SIZE, FIELD(ws_max_size), "16MiB", "--ws-max-size",
      "size of a message, as the application gets it; then close code 1009", .min = 1,
      .max = 1024 * MIB },
    { "websocket.queue", KEY_COUNT, FIELD(ws_queue), "32", "--ws-max-queue",
      "messages that wait for the application; then the connection is read no further", .min = 1,
      .max = 65535 },
    { "websocket.ping_interval", KEY_DURATION, FIELD(ws_ping_interval_ms), "20s",
      "--ws-ping-interval", "between pings", .max = DAY, .zero = "off" },
    { "websocket.ping_timeout", KEY_DURATION, FIELD(ws_ping_timeout_ms), "20s", "--ws-ping-timeout",
      "without a sign of life after a ping; then the connection is closed", .max = DAY,
      .zero = "off" },
    { "websocket.drain", KEY_DURATION, FIELD(ws_drain_ms), "10s", NULL,
      "over which open WebSockets are closed when a worker leaves, so that their clients do not "
      "return together",
      .max = DAY, .zero = "off" },
    { "websocket.drain_code", KEY_COUNT, FIELD(ws_drain_code), "1012", NULL, "close code they get",
      .min = 1000, .max = 4999 },
    { "websocket.deflate.enabled", KEY_BOOL, FIELD(ws_deflate), "true", "--ws-per-message-deflate",
      .help = "permessage-deflate, for clients that offer it" },
    { "websocket.deflate.window_bits", KEY_COUNT, FIELD(ws_deflate_window_bits), "12", NULL,
      "window of both directions, as a power of two", .min = 9, .max = 15 },
    { "websocket.deflate.mem_level", KEY_COUNT, FIELD(ws_deflate_mem_level), "5", NULL,
      "memory of zlib's hash tables", .min = 1, .max = 9 },
    { "websocket.deflate.level", KEY_COUNT, FIELD(ws_deflate_level), "5", NULL,
      "how hard zlib tries", .min = 1, .max = 9 },
    { "websocket.deflate.no_context_takeover", KEY_BOOL, FIELD(ws_deflate_no_takeover), "false",
      NULL, .help = "each message is compressed on its own: less memory, larger messages" },
    { "websocket.deflate.min_size", KEY_SIZE, FIELD(ws_deflate_min_size), "128", NULL,
      "size of a message from which it is compressed", .max = 1024 * MIB, .zero = "off" },
    { "websocket.deflate.memory", KEY_SIZE, FIELD(ws_deflate_memory), "64MiB", NULL,
      "memory of a worker's compressors; beyond it messages go as they are, and new connections "
      "do without",
      .max = 64 * 1024 * (uint64_t)MIB, .zero = "off" },

    { "proxy.headers", KEY_WORDS, FIELD(proxy_headers), PROXY_HEADERS_DEFAULT, NULL,
      "headers by which a proxy tells who asks, and for what; name only those that yours sets",
      .words = proxy_header_words, .zero = "none", .bare = PROXY_HEADERS_DEFAULT,
      .value = "HEADER" },
    { "proxy.trusted", KEY_TEXTS, FIELD(proxy_trusted), "127.0.0.1,::1,unix",
      "--forwarded-allow-ips --proxy-allow-from",
      "proxies that are believed: addresses, networks, unix (peers on unix sockets), * (everybody)",
      .value = "NETWORK", .fault = network_fault },
    { "proxy.protocol", KEY_WORD, FIELD(proxy_protocol), "off", NULL,
      "connections begin with a PROXY protocol header, of trusted peers only; auto = either "
      "version",
      .words = proxy_protocol_words, .zero = "off", .bare = "auto" },
    { "root_path", KEY_TEXT, FIELD(root_path), "", NULL,
      "the path a proxy has cut off before it passed the request on", .value = "PATH",
      .fault = root_path_fault, .is_empty_ok = true },
    { "lifespan", KEY_WORD, FIELD(lifespan), "auto", NULL,
      "ASGI lifespan; auto = an application that does not know it is served without",
      .words = lifespan_words },
    { "http.lenient", KEY_WORDS, FIELD(http_lenient), NULL, NULL,
      "what the strict parser is to accept after all", .words = lenient_words },
    { "http.trailers", KEY_WORD, FIELD(http_trailers), "drop", NULL,
      "trailers of a request's body; pass = an ASGI application finds them in its last "
      "http.request message",
      .words = trailers_words },
    { "static", KEY_STATICS, FIELD(statics), NULL, NULL,
      "folders whose files are answered below a route without Python; as a map with route, dir, "
      "index, expires, symlinks, dotfiles, "
      "precompressed, fallthrough",
      .value = "ROUTE=DIR" },
    { "headers", KEY_HEADERS, FIELD(headers), NULL, "--header", "headers added to every answer",
      .value = "'NAME: VALUE'" },
    { "server_header", KEY_BOOL, FIELD(server_header), "true", NULL, .help = "send Server" },
    { "date_header", KEY_BOOL, FIELD(date_header), "true", NULL, .help = "send Date" },

    { "log.level", KEY_WORD, FIELD(log_level), "info", NULL, "least level that is logged",
      .words = level_words },
    { "log.format", KEY_WORD, FIELD(log_is_json), "text", NULL,
      "how lines of the error log look; json = an object a line", .words = log_format_words },
    { "log.file", KEY_PATH, FIELD(log_file), NULL, "--error-logfile",
      "error log; - = standard error", .is_dash = true },
    { "log.config", KEY_PATH, FIELD(log_config), NULL, NULL,
      .help = "configuration of Python's logging, applied in each worker: YAML or JSON (as "
              "logging.config.dictConfig has it), or INI" },
    { "access_log.enabled", KEY_BOOL, FIELD(access_log), "false", "--access-log",
      .help = "log each request; naming a file turns it on too" },
    { "access_log.file", KEY_PATH, FIELD(access_log_file), NULL, "--access-logfile",
      "access log; - = standard output", .is_dash = true },
    { "access_log.format", KEY_TEXT, FIELD(access_log_format), ACCESS_FORMAT_DEFAULT,
      "--access-logformat", "gunicorn's atoms, or common, combined or json", .value = "FORMAT",
      .fault = access_format_fault },
    { "access_log.exclude", KEY_TEXTS, FIELD(access_log_exclude), NULL, NULL,
      "paths without a line, unless the status is 500 or more: /health, prefixes that end in a "
      "slash (/static/), patterns (*.ico)",
      .value = "PATH" },
    { "access_log.sample", KEY_TEXT, FIELD(access_log_sample), "1", NULL,
      "the part of the requests that get a line: 0.01 or 1%; those with a status of 400 or more "
      "all "
      "do",
      .value = "FRACTION", .fault = access_sample_fault },

    { "request_id.enabled", KEY_BOOL, FIELD(request_id), "false", "--request-id",
      .help = "each request has an id: the application and both logs get it" },
    { "request_id.header", KEY_TEXT, FIELD(request_id_header), "X-Request-ID", NULL,
      "from where it is taken, if the peer is one of proxy.trusted; else it is made",
      .value = "NAME", .fault = request_header_fault },
    { "request_id.respond", KEY_BOOL, FIELD(request_id_respond), "false", NULL,
      .help = "the answer has it too, in that header" },

    { "recycle.max_requests", KEY_COUNT, FIELD(recycle_max_requests), "off",
      "--max-requests --limit-max-requests",
      "requests after which a worker is replaced: another is ready first, and it drains", .min = 1,
      .max = UINT32_MAX, .zero = "off" },
    { "recycle.jitter", KEY_COUNT, FIELD(recycle_jitter), "0",
      "--max-requests-jitter --limit-max-requests-jitter",
      "up to so many requests more, at random for each worker", .max = UINT32_MAX },
    { "recycle.max_age", KEY_DURATION, FIELD(recycle_max_age_ms), "off", "--workers-lifetime",
      "after which a worker is replaced", .min = 1000, .max = 365 * (uint64_t)DAY, .zero = "off" },
    { "recycle.max_rss", KEY_SIZE, FIELD(recycle_max_rss), "off", "--max-rss --workers-max-rss",
      "resident memory above which a worker is replaced", .min = MIB, .max = INT64_MAX,
      .zero = "off" },

    { "debug", KEY_BOOL, FIELD(debug), "false", NULL,
      .help = "clients are shown the traceback of an exception that reaches the server: for "
              "development" },
    { "shake", KEY_TEXT, FIELD(shake), NULL, NULL,
      "what can happen to requests that meet happens, as this seed has it, so that races show: for "
      "tests, never for production",
      .value = "SEED", .fault = shake_fault },
    { "reload.enabled", KEY_BOOL, FIELD(reload_enabled), "false", "--reload",
      .help = "a change of a file replaces the workers: for development" },
    { "reload.dirs", KEY_PATHS, FIELD(reload_dirs), NULL, "--reload-dir",
      "folders to watch, with all below them, in place of app_dir and python_path",
      .value = "DIR" },
    { "reload.include", KEY_TEXTS, FIELD(reload_include), NULL, NULL,
      "files to watch beside *.py: patterns of names or paths", .value = "PATTERN" },
    { "reload.exclude", KEY_TEXTS, FIELD(reload_exclude), NULL, NULL,
      "files and folders not to watch; hidden ones, __pycache__ and virtual environments never are",
      .value = "PATTERN" },
    { "reload.delay", KEY_DURATION, FIELD(reload_delay_ms), "250ms", NULL,
      "from the last change of several to the reload", .max = DAY },

    { "health.live", KEY_TEXT, FIELD(health_live), NULL, NULL,
      "path that tells whether the server lives: its loops turn; answered without Python",
      .value = "PATH|off", .fault = health_path_fault },
    { "health.ready", KEY_TEXT, FIELD(health_ready), NULL, NULL,
      "path that tells whether requests are welcome: a worker is ready, and nothing drains; else "
      "503",
      .value = "PATH|off", .fault = health_path_fault },
    { "health.bind", KEY_TEXT, FIELD(health_bind), NULL, NULL,
      "address of its own for these paths, served by the master; without it the application's "
      "addresses answer",
      .value = "ADDRESS", .fault = own_bind_fault },
    { "health.timeout", KEY_DURATION, FIELD(health_timeout_ms), "3s", NULL,
      "for --healthcheck to get its answer", .min = 1, .max = DAY },

    { "metrics.enabled", KEY_BOOL, FIELD(metrics_enabled), "false", "--metrics",
      .help = "tell metrics to Prometheus; naming metrics.bind turns it on too" },
    { "metrics.path", KEY_TEXT, FIELD(metrics_path), "/metrics", NULL, "path that tells them",
      .value = "PATH", .fault = metrics_path_fault },
    { "metrics.bind", KEY_TEXT, FIELD(metrics_bind), NULL, NULL,
      "address of its own for metrics.path, served by the master; without it the application's "
      "addresses answer, to everybody who can reach them",
      .value = "ADDRESS", .fault = own_bind_fault },
    { "metrics.page", KEY_BOOL, FIELD(metrics_page), "false", NULL,
      .help =
          "a status page for browsers on metrics.bind: /, /status.json and below /status/; whoever "
          "can reach it reads requests and stacks" },

    { "guard.mode", KEY_WORD, FIELD(guard_mode), "warn", NULL,
      "what guardrails do when they notice something; raise: a request gets 500 too, where its "
      "answer has "
      "not begun",
      .words = guard_words },
    { "guard.loop_block", KEY_DURATION, FIELD(guard_loop_block_ms), "100ms", NULL,
      "a step of the event loop that takes longer is told of, with its request and its line",
      .max = DAY, .zero = "off" },
    { "guard.unawaited", KEY_BOOL, FIELD(guard_unawaited), "true", NULL,
      .help = "coroutines that die without having been awaited are told of" },
    { "guard.lost", KEY_BOOL, FIELD(guard_lost), "true", NULL,
      .help = "exceptions of tasks that nobody awaits are told of" },
    { "guard.sync", KEY_BOOL, FIELD(guard_sync), "true", NULL,
      .help = "Django's ORM on the event loop is told of, also where the application swallows what "
              "Django raises" },
    { "guard.transactions", KEY_BOOL, FIELD(guard_transactions), "true", NULL,
      .help = "transactions that a request leaves open are told of, and requests that use two "
              "connections to one database of Django's" },
    { "guard.sessions", KEY_BOOL, FIELD(guard_sessions), "true", NULL,
      .help = "an AsyncSession of SQLAlchemy that two tasks use at once is told of" },
    { "guard.threads", KEY_DURATION, FIELD(guard_threads_ms), "1s", NULL,
      "a request that waits for a thread for longer is told of, with who has the threads",
      .max = DAY, .zero = "off" },
    { "guard.orphans", KEY_WORD, FIELD(guard_orphans), "on", NULL,
      "tasks that outlive the request which made them are told of; cancel = and cancelled",
      .words = orphans_words },
    { "guard.unclosed", KEY_BOOL, FIELD(guard_unclosed), "true", NULL,
      .help = "asynchronous generators that are left open are told of, and Python's "
              "ResourceWarnings with their request" },
    { "guard.swallowed", KEY_BOOL, FIELD(guard_swallowed), "true", NULL,
      .help = "tasks that go on although they were cancelled are told of" },
    { "guard.disconnect_grace", KEY_DURATION, FIELD(guard_disconnect_grace_ms), "3s", NULL,
      "after which a request whose client has gone is cancelled, if it neither reads nor sends",
      .max = DAY, .zero = "off" },

    { "control.socket", KEY_TEXT, FIELD(control_socket), NULL, NULL,
      "unix socket on which ringcornctl is answered; whoever may write to it may stop the server",
      .value = "PATH|off", .fault = control_socket_fault },
    { "control.mode", KEY_MODE, FIELD(control_mode), "0600", NULL,
      .help = "permissions of that socket" },

    { "hooks.post_fork", KEY_TEXTS, FIELD(hook_post_fork), NULL, NULL,
      "functions that each worker calls before it imports the application",
      .value = "MODULE:FUNCTION", .fault = function_fault },
    { "hooks.when_ready", KEY_TEXTS, FIELD(hook_when_ready), NULL, NULL,
      "functions that each worker calls after lifespan.startup, before the first request",
      .value = "MODULE:FUNCTION", .fault = function_fault },
    { "hooks.worker_exit", KEY_TEXTS, FIELD(hook_worker_exit), NULL, NULL,
      "functions that each worker calls last, after lifespan.shutdown", .value = "MODULE:FUNCTION",
      .fault = function_fault },
    { "hooks.on_reload", KEY_TEXTS, FIELD(hook_on_reload), NULL, NULL,
      "functions that a worker calls when a reload has replaced it, before it leaves",
      .value = "MODULE:FUNCTION", .fault = function_fault },

    { "services", KEY_SERVICES, FIELD(services), NULL, "--service",
      "functions that run beside the site (a bot, a consumer of a queue); as a map of name: "
      "{run, scope, restart}",
      .value = "NAME=MODULE:FUNCTION" },

    { "events.command", KEY_TEXTS, FIELD(events_command), NULL, NULL,
      "program that the master runs for each event, which is JSON on its standard input, and its "
      "arguments: [/usr/local/bin/alert, --urgent]; no shell",
      .value = "PROGRAM" },
    { "events.webhook", KEY_TEXT, FIELD(events_webhook), NULL, NULL,
      "URL to which each event is posted as JSON", .value = "URL", .fault = url_fault },
    { "events.kinds", KEY_WORDS, FIELD(events_kinds), EVENTS_DEFAULT, NULL, "what is told",
      .words = event_words, .zero = "none", .bare = EVENTS_DEFAULT, .value = "KIND" },
    { "events.interval", KEY_DURATION, FIELD(events_interval_ms), "60s", NULL,
      "between two events of one kind; the next says how many were held back", .max = DAY,
      .zero = "off" },
    { "events.certificate_days", KEY_COUNT, FIELD(events_certificate_days), "14", NULL,
      "before a certificate ends, from when on it is told every day", .min = 1, .max = 365,
      .zero = "off" },

    { "otel.enabled", KEY_WORD, FIELD(otel), "auto", NULL,
      "OpenTelemetry's server spans; auto = where the application has configured a tracer "
      "provider, "
      "and nothing that makes them itself",
      .words = otel_words },

    { "venv", KEY_PATH, FIELD(venv), NULL, NULL,
      "virtual environment; without it the one in VIRTUAL_ENV, if any", .value = "DIR" },
    { "import_first", KEY_TEXTS, FIELD(import_first), NULL, NULL,
      "modules imported before the application (APM, coverage)", .value = "MODULE",
      .fault = module_fault },
    { "python.options", KEY_TEXTS, FIELD(python_options), NULL, NULL,
      "options as after python -X: dev, utf8=1", .value = "OPTION" },
};

const size_t schema_n = ARRAY_LEN(schema);
_Static_assert(ARRAY_LEN(schema) <= KEYS_MAX, "KEYS_MAX is too small");

size_t
key_group_size(const struct key *k)
{
    const char *dot = strrchr(k->name, '.');
    return dot ? (size_t)(dot - k->name) : 0;
}

void
key_option(const struct key *k, char *out, size_t size)
{
    snprintf(out, size, "--%s", k->name);
    for (char *p = out; *p != '\0'; p++)
        if (*p == '.' || *p == '_')
            *p = '-';
}

void
key_variable(const struct key *k, char *out, size_t size)
{
    snprintf(out, size, "RINGCORN_%s", k->name);
    for (char *p = out; *p != '\0'; p++)
        *p = *p == '.' ? '_' : (char)toupper((unsigned char)*p);
}

const struct key *
schema_by_name(const char *name)
{
    for (size_t i = 0; i < schema_n; i++)
        if (strcmp(schema[i].name, name) == 0)
            return &schema[i];
    return NULL;
}

const struct key *
schema_by_variable(const char *suffix)
{
    for (size_t i = 0; i < schema_n; i++) {
        char variable[NAME_MAX_KEY];
        key_variable(&schema[i], variable, sizeof(variable));
        if (strcmp(variable + strlen("RINGCORN_"), suffix) == 0)
            return &schema[i];
    }
    return NULL;
}

const struct key *
schema_group(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < schema_n; i++)
        if (n > 0 && key_group_size(&schema[i]) == n && memcmp(schema[i].name, name, n) == 0)
            return &schema[i];
    return NULL;
}

/* Is option one of those separated by spaces? */
static bool
is_among(const char *options, const char *option)
{
    size_t n = strlen(option);
    for (const char *p = options; p != NULL && *p != '\0';) {
        size_t word = strcspn(p, " ");
        if (word == n && memcmp(p, option, n) == 0)
            return true;
        p += word + strspn(p + word, " ");
    }
    return false;
}

static bool
key_has_option(const struct key *k, const char *option)
{
    char own[NAME_MAX_KEY];
    if (k->is_positional)
        return false;
    key_option(k, own, sizeof(own));
    return strcmp(own, option) == 0 || is_among(k->options, option);
}

const struct key *
schema_by_option(const char *option, bool *is_no)
{
    char without_no[NAME_MAX_KEY] = "";
    if (strncmp(option, "--no-", 5) == 0)
        snprintf(without_no, sizeof(without_no), "--%.*s", NAME_MAX_KEY - 3, option + 5);
    for (size_t i = 0; i < schema_n; i++) {
        *is_no = false;
        if (key_has_option(&schema[i], option))
            return &schema[i];
        *is_no = true;
        if ((schema[i].type == KEY_BOOL || schema[i].bare != NULL) && without_no[0] != '\0' &&
            key_has_option(&schema[i], without_no))
            return &schema[i];
    }
    return NULL;
}

static void
append(char *out, size_t size, const char *text)
{
    size_t n = strlen(out);
    snprintf(out + n, size - n, "%s", text);
}

static void
append_words(const struct key *k, char *out, size_t size)
{
    for (const struct key_word *w = k->words; w->word != NULL; w++) {
        bool is_last = w[1].word == NULL || (w > k->words && w[1].value == w->value);
        if (w > k->words)
            append(out, size, is_last ? " or " : ", ");
        append(out, size, w->word);
        if (is_last)
            return; /* what follows are other names for the same */
    }
}

void
key_format(const struct key *k, uint64_t n, char *out, size_t size)
{
    static const struct {
        const char *unit;
        uint64_t size;
    } units[] = { { "GiB", 1024ULL * MIB }, { "MiB", MIB }, { "KiB", KIB } };
    if (k->type == KEY_DURATION) {
        if (n > 0 && n % (3600 * SECOND) == 0)
            snprintf(out, size, "%lluh", (unsigned long long)n / (3600 * SECOND));
        else if (n % SECOND == 0)
            snprintf(out, size, "%llus", (unsigned long long)n / SECOND);
        else
            snprintf(out, size, "%llums", (unsigned long long)n);
        return;
    }
    for (size_t i = 0; k->type == KEY_SIZE && n > 0 && i < ARRAY_LEN(units); i++)
        if (n % units[i].size == 0) {
            snprintf(out, size, "%llu%s", (unsigned long long)(n / units[i].size), units[i].unit);
            return;
        }
    snprintf(out, size, k->type == KEY_MODE ? "%04llo" : "%llu", (unsigned long long)n);
}

static void
append_range(const struct key *k, char *out, size_t size)
{
    char low[32], high[32];
    key_format(k, k->min, low, sizeof(low));
    key_format(k, k->max, high, sizeof(high));
    if (k->zero != NULL) {
        append(out, size, k->zero);
        append(out, size, " or ");
    }
    if (k->type == KEY_DURATION)
        append(out, size, "a time like 500ms, 30s, 5m or seconds, up to ");
    else if (k->type == KEY_SIZE)
        append(out, size, "a size like 8192, 64KiB or 16MiB");
    if (k->type == KEY_SIZE && k->max == INT64_MAX)
        return;
    if (k->type == KEY_SIZE)
        append(out, size, ", ");
    if (k->type != KEY_DURATION) {
        append(out, size, low);
        append(out, size, " to ");
    }
    append(out, size, high);
}

void
key_expected(const struct key *k, char *out, size_t size)
{
    out[0] = '\0';
    switch (k->type) {
    case KEY_BOOL:
        append(out, size, "true or false");
        break;
    case KEY_COUNT:
    case KEY_SIZE:
    case KEY_DURATION:
        append_range(k, out, size);
        break;
    case KEY_MODE:
        append(out, size, "octal permissions, 0000 to 0777");
        break;
    case KEY_WORD:
        append_words(k, out, size);
        break;
    case KEY_WORDS:
        append(out, size, k->zero ? k->zero : "");
        append(out, size, k->zero ? ", or a list of " : "a list of ");
        append_words(k, out, size);
        break;
    case KEY_TEXT:
        append(out, size, "text");
        break;
    case KEY_PATH:
        append(out, size, "a path");
        break;
    case KEY_TEXTS:
        append(out, size, "a list");
        break;
    case KEY_PATHS:
        append(out, size, "a list of paths");
        break;
    case KEY_BINDS:
        append(out, size, "a list of addresses");
        break;
    case KEY_HEADERS:
        append(out, size, "names and values");
        break;
    case KEY_STATICS:
        append(out, size, "a list of ROUTE=DIR, or of maps");
        break;
    case KEY_SERVICES:
        append(out, size, "a list of NAME=MODULE:FUNCTION, or a map of maps");
        break;
    }
}
