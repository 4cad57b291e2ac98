/* load.h: what the files of this folder share: the table of keys, and one load in progress. Private
 * to conf/ (and its tests).
 *
 * A load sets every key to its default, then lets each source write over it, weakest first:
 * WEB_CONCURRENCY and PORT, YAML, RINGCORN_* variables, command line. Every fault is reported and
 * counted; only a load without one gives a struct conf.
 *
 * One thread: the master's, at start and at each reload. */
#ifndef RINGCORN_CONF_LOAD_H
#define RINGCORN_CONF_LOAD_H

#include "base/base.h"
#include "conf/conf.h"

enum {
    KEYS_MAX = 192,              /* rows of the table */
    LIST_MAX = 256,              /* entries of one list (bind, headers, python_path, ...) */
    TEXT_MAX = 8 * 1024,         /* bytes of one value */
    FILE_SIZE_MAX = 1024 * 1024, /* bytes of a YAML or env file */
    NAME_MAX_KEY = 64,           /* bytes of the longest name of a key in any spelling, and a NUL */
};

/* --- the table (schema.c) --------------------------------------------------------------------- */

enum { REQUEST_ID_NAME_MAX = 64 };

/* The Common Log Format and the time it took. */
#define ACCESS_FORMAT_DEFAULT "%(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s %(L)s"

/* access.c. Each 0, or -EINVAL and why. */
int access_format_fault(const char *text, char *why, size_t why_size);
int access_sample_fault(const char *text, char *why, size_t why_size);
/* Fills in what conf keeps of the two, which are right. 0 or -ENOMEM. */
int access_compile(struct conf *conf);
void access_free(struct conf *conf);

enum key_type {
    KEY_BOOL,
    KEY_COUNT,    /* a whole number */
    KEY_SIZE,     /* bytes: 8192, 64KiB */
    KEY_DURATION, /* milliseconds: 10 (seconds), 500ms, 30s, 5m */
    KEY_MODE,     /* octal permissions */
    KEY_WORD,     /* one of words */
    KEY_WORDS,    /* a list of words, ored */
    KEY_TEXT,
    KEY_PATH,     /* made absolute; "-" is NULL where dash is set */
    KEY_TEXTS,    /* struct conf_strings */
    KEY_PATHS,    /* struct conf_strings, each made absolute */
    KEY_BINDS,    /* conf->binds */
    KEY_HEADERS,  /* conf->headers */
    KEY_STATICS,  /* conf->statics */
    KEY_SERVICES, /* conf->services */
};

struct key_word {
    const char *word; /* NULL ends the list; of two with one value the first is printed */
    unsigned value;
};

struct key {
    const char *name; /* "timeouts.keep_alive" */
    enum key_type type;
    size_t offset, width; /* of the field in struct conf */
    const char *initial;  /* the default, as text; NULL = not set, empty for lists */
    const char *options;  /* beside --group-key, separated by spaces: "-w --threads" */
    const char *help;
    uint64_t min, max;            /* COUNT, SIZE, DURATION */
    const char *zero;             /* the word that means 0: "auto", "off", "none", or NULL */
    const struct key_word *words; /* WORD, WORDS */
    const char *value; /* what stands for the value in --help, where the type says too little */
    /* What the option means without a value behind it; --no-x then means zero. NULL = it needs one. */
    const char *bare;
    /* TEXT, TEXTS: 0, or -EINVAL and why */
    int (*fault)(const char *text, char *why, size_t why_size);
    bool is_positional; /* the argument without a dash; has no option */
    bool is_dash;       /* PATH: "-" means a standard stream */
    bool is_empty_ok;   /* TEXT: "" is a value */
    bool is_map;        /* TEXTS: entries are NAME=VALUE, which YAML may write as a map */
};

extern const struct key schema[];
extern const size_t schema_n;

/* By the YAML name, the option ("--keep-alive", "-w"; *is_no tells --no-x of a boolean) or what
 * follows RINGCORN_. NULL: no such. */
const struct key *schema_by_name(const char *name);
const struct key *schema_by_option(const char *option, bool *is_no);
const struct key *schema_by_variable(const char *suffix);

/* The group's first key when name is that of a group ("timeouts"), or NULL. */
const struct key *schema_group(const char *name);
/* Bytes of the group in the key's name, "websocket.deflate" of websocket.deflate.level; 0 = top level. */
size_t key_group_size(const struct key *k);

/* Each writes NUL-terminated text of at most size bytes. */
void key_option(const struct key *k, char *out, size_t size);   /* "--timeouts-keep-alive" */
void key_variable(const struct key *k, char *out, size_t size); /* "RINGCORN_TIMEOUTS_KEEP_ALIVE" */
void key_expected(const struct key *k, char *out, size_t size); /* "auto or 1 to 1024" */
/* A number as one would write it for this key: 75000 -> "75s". Exact, so that it can be read
 * back. */
void key_format(const struct key *k, uint64_t n, char *out, size_t size);

static inline bool
key_is_list(const struct key *k)
{
    return k->type == KEY_TEXTS || k->type == KEY_PATHS || k->type == KEY_BINDS ||
           k->type == KEY_HEADERS || k->type == KEY_WORDS || k->type == KEY_STATICS ||
           k->type == KEY_SERVICES;
}

/* --- one load (load.c) ------------------------------------------------------------------------ */

enum source {
    SOURCE_DEFAULT,
    SOURCE_PRESET,   /* the YAML file that RINGCORN_DEFAULTS names */
    SOURCE_FALLBACK, /* WEB_CONCURRENCY, PORT, VIRTUAL_ENV */
    SOURCE_YAML,
    SOURCE_ENV,
    SOURCE_CLI,
};

/* Where a value was written, for messages. Borrows everything; lives as long as the load. */
struct where {
    enum source source;
    const char *file; /* or NULL */
    unsigned line;
    const char *name; /* key, variable or option as written, or NULL */
    size_t name_n;
};

struct env_var {
    char *name, *value;
    unsigned line;
};

struct load {
    struct conf *conf;
    struct where where[KEYS_MAX]; /* by index in schema: who set it last */
    unsigned errors;
    bool is_system; /* one of the errors was a file that cannot be read, or want of memory */
    bool is_quiet;  /* errors are counted, not printed */
    const char *env_file;
    struct env_var *env; /* of --env-file */
    size_t env_n;
};

/* Reports and counts a fault. */
void load_error(struct load *l, const struct where *w, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for what is not the operator's fault: a file that cannot be read, no memory. */
void load_system_error(struct load *l, const struct where *w, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline struct where *
load_where(struct load *l, const struct key *k)
{
    return &l->where[k - schema];
}

struct where where_option(const char *option, size_t n);
struct where where_key(const struct key *k);

/* The folder the program was started in, as the shell named it: remembered at the first load, so
 * that a reload follows a symbolic link (/srv/current) that points elsewhere by now. "" when it
 * cannot be told. */
const char *launch_dir(void);
/* New: path itself, or below launch_dir(). NULL: no memory. */
char *absolute_path(const char *path);

/* Reads a file of at most FILE_SIZE_MAX bytes; *text is new and NUL-terminated. Returns 0 or -errno
 * (-EFBIG: too large). */
int file_read(const char *path, char **text, size_t *n);

/* --- text into values (value.c) --------------------------------------------------------------- */

/* Sets a key, or adds one entry to a list; the first of a stronger source drops what weaker ones
 * wrote. */
void value_add(struct load *l, const struct key *k, const char *text, const struct where *w);
/* Sets a list to empty, or a key without a default to "not set". */
void value_unset(struct load *l, const struct key *k, const struct where *w);
void value_add_header(struct load *l, const struct key *k, const char *name, const char *value,
                      const struct where *w);
/* Takes what *s owns, also on errors. */
void value_add_static(struct load *l, const struct key *k, struct conf_static *s,
                      const struct where *w);
void value_add_service(struct load *l, const struct key *k, struct conf_service *s,
                       const struct where *w);
void value_add_bind(struct load *l, const struct key *k, struct conf_bind *bind,
                    const struct where *w);
/* Adds each entry of a list separated by commas (headers: by line breaks); other keys are set as a
 * whole. */
void value_add_joined(struct load *l, const struct key *k, const char *text, const struct where *w);

bool parse_bool(const char *text, bool *out);
bool parse_duration(const char *text, uint64_t *ms);
/* Whether text is a value that the key (of WORD or WORDS) can take, a list of them for WORDS. */
bool value_is_words(const struct key *k, const char *text);
/* BOOL, COUNT, SIZE, DURATION, MODE, WORD, WORDS */
uint64_t key_number(const struct conf *conf, const struct key *k);
char **key_text(struct conf *conf, const struct key *k);                /* TEXT, PATH */
struct conf_strings *key_texts(struct conf *conf, const struct key *k); /* TEXTS, PATHS */

/* 0 or -ENOMEM. */
int strings_add(struct conf_strings *list, const char *text);
void strings_free(struct conf_strings *list);
/* Frees what the key's field owns and sets it to nothing. */
void value_free(struct conf *conf, const struct key *k);

/* --- `bind` (bind.c) -------------------------------------------------------------------------- */

enum { PORT_DEFAULT = 8000 };
#define BIND_SLOT "{slot}" /* in the path of a unix socket: the worker's number */

/* *out is new on success (bind_free()). Returns 0, -EINVAL with why filled in, or -ENOMEM. */
int bind_parse(const char *text, struct conf_bind *out, char *why, size_t why_size);
bool port_is_right(const char *text);
/* From --host and --port; either may be NULL (127.0.0.1, PORT_DEFAULT); port is right. */
int bind_from_host(const char *host, const char *port, struct conf_bind *out, char *why,
                   size_t why_size);
void bind_free(struct conf_bind *bind);
/* Whether two paths, with {slot} or without, may be those of one file. */
bool bind_paths_clash(const char *a, const char *b);

/* --- `static` (static.c) ---------------------------------------------------------------------- */

#define STATIC_EXPIRES_MAX_MS (8760 * 3600 * 1000ULL) /* a year, the most that caches care for */

void static_init(struct conf_static *s); /* an entry's defaults */
void static_free(struct conf_static *s);
/* One key of an entry. 0, -EINVAL with why filled in, or -ENOMEM. */
int static_set(struct conf_static *s, const char *name, const char *text, char *why, size_t size);
/* "/static=/srv/static"; errors as above, *out is new on success. */
int static_parse(const char *text, struct conf_static *out, char *why, size_t size);
const char *static_symlinks_word(const struct conf_static *s);
/* Routes are there once, folders exist. */
void check_statics(struct load *l, const struct where *w);

/* --- `timeouts.routes`, `cancel.methods` (routes.c) ------------------------------------------- */

int route_timeout_fault(const char *text, char *why, size_t why_size);
int routes_compile(struct conf *conf); /* the entries are right. 0 or -ENOMEM */
extern const struct key_word method_words[];

/* --- `services`, `hooks` (service.c) ---------------------------------------------------------- */

void service_init(struct conf_service *s); /* an entry's defaults */
void service_free(struct conf_service *s);
/* One key of an entry. 0, -EINVAL with why filled in, or -ENOMEM. */
int service_set(struct conf_service *s, const char *name, const char *text, char *why, size_t size);
/* "bot=mysite.bot:main"; errors as above, *out is new on success. */
int service_parse(const char *text, struct conf_service *out, char *why, size_t size);
const char *service_scope_word(const struct conf_service *s);
const char *service_restart_word(const struct conf_service *s);
/* What names a function: "mysite.bot:main". 0, or -EINVAL and why. */
int function_fault(const char *text, char *why, size_t why_size);

/* --- sources ---------------------------------------------------------------------------------- */

#define ENV_DEFAULTS "RINGCORN_DEFAULTS"

/* yaml.c: source is SOURCE_YAML or SOURCE_PRESET; name is for messages. */
void yaml_apply(struct load *l, enum source source, const char *name, const char *text, size_t n);

/* env.c: --env-file into l->env; RINGCORN_*; then the fallbacks. env_get() prefers the process's
 * environment. */
void env_file_read(struct load *l, const char *path, const struct where *w);
void env_file_parse(struct load *l, const char *name, char *text);
void env_apply(struct load *l);
void env_apply_fallbacks(struct load *l);
const char *env_get(const struct load *l, const char *name, struct where *w);
/* What workers are to add to their environment. Returns 0 or -ENOMEM. */
int env_export(const struct load *l, struct conf_strings *out);
void env_fini(struct load *l);

/* cli.c */
enum cli_special {
    CLI_CONFIG,
    CLI_ENV_FILE,
    CLI_HOST,
    CLI_PORT,
    CLI_UDS,
    CLI_FD,
    CLI_SPECIALS_WITH_VALUE
};

struct cli_value {
    const struct key *key;
    const char *text;
    struct where where;
};

struct cli {
    enum conf_action action;
    struct {
        const char *text;
        struct where where;
    } special[CLI_SPECIALS_WITH_VALUE];
    struct cli_value *values;
    size_t values_n;
};

/* An option that is no key, for --help. */
struct cli_option {
    const char *name, *letter, *value, *help;
    enum cli_special special; /* when it takes a value */
    enum conf_action action;  /* when it does not */
};
extern const struct cli_option cli_options[];
extern const size_t cli_options_n;

/* Which of --help, --version and --config-reference is there, before anything is judged; CONF_RUN:
 * none. */
enum conf_action cli_peek(int argc, char **argv);
/* Takes the command line apart; faults are reported. values borrow argv. */
void cli_scan(struct load *l, int argc, char **argv, struct cli *cli);
void cli_apply(struct load *l, const struct cli *cli);
void cli_fini(struct cli *cli);

/* --- rules between keys (check.c) ------------------------------------------------------------- */

/* Resolves what depends on other keys or on the machine, then judges the whole. */
void check_all(struct load *l, bool is_app_needed);

/* --- names (names.c) -------------------------------------------------------------------------- */

/* What to do about an option, variable or key of a peer that Ringcorn does not have: a clause, or
 * NULL. name in any spelling, without dashes before or RINGCORN_. */
const char *names_advice(const char *name);
/* The nearest name in the same spelling, or NULL. Static storage, valid until the next call. */
const char *names_near_key(const char *name);
const char *names_near_option(const char *option);
const char *names_near_variable(const char *variable);

/* --- the machine ------------------------------------------------------------------------------ */

/* cgroup.c. What a group itself allows, 0 = no limit. group is "" or "/a/b"; root is put before /proc and /sys (tests). */
typedef uint64_t (*cgroup_fn)(const char *root, const char *group);
/* The least of our group and those above it, in both versions; 0 = no limit. */
uint64_t cgroup_least(const char *root, const char *controller, cgroup_fn v1, cgroup_fn v2);
/* Reads a group's file below mount ("" or "/cpu"); false when it is not there. */
bool cgroup_file(const char *root, const char *mount, const char *group, const char *name,
                 char *out, size_t size);

/* memory.c: bytes; 0 = no limit. */
uint64_t memory_limit(const char *root);
uint64_t memory_oom_kills(const char *root);

/* cpus.c */

/* The quota that bounds this process, in whole CPUs rounded up; 0 = none. root is put before /proc
 * and /sys (tests). */
unsigned cpus_quota(const char *root);

/* For tests and the fuzzer: defaults, then YAML from memory, then the rules; needs no app. */
int conf_load_text(const char *name, const char *text, size_t n, bool is_quiet, struct conf **out);

#endif
