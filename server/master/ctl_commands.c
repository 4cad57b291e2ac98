/* ctl_commands.c: the table of commands, and those that the master answers by itself. Each writes JSON into job->out.
 * A command that only asks does not change anything; one that tells something says in the log who wanted it. */
#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/json.h"
#include "base/proc.h"
#include "figures.h"
#include "state.h"

#ifndef RINGCORN_VERSION
#define RINGCORN_VERSION "0.1.0.dev0"
#endif

static double
seconds(int64_t from_ns, int64_t to_ns)
{
    return (double)(to_ns - from_ns) / NS_PER_S;
}

/* --- those that ask ------------------------------------------------------------------------------ */

static const char *
state_of(const struct child *c)
{
    static const char *const names[] = {
        [CHILD_BOOTING] = "booting", [CHILD_READY] = "ready",   [CHILD_LEAVING] = "draining",
        [CHILD_DUMPING] = "killed",  [CHILD_KILLED] = "killed",
    };
    return names[c->state];
}

/* The begin of an object. */
static void
begin_worker(struct json *j, const struct child *c, int64_t now_ns)
{
    json_begin(j, '{');
    json_key(j, "worker"), json_int(j, c->slot);
    json_key(j, "pid"), json_int(j, c->pid);
    json_key(j, "state"), json_string(j, state_of(c));
    json_key(j, "generation"), json_int(j, c->generation);
    json_key(j, "age_s"), json_real(j, seconds(c->started_ns, now_ns));
    json_key(j, "boot_s");
    if (c->ready_ns != 0)
        json_real(j, seconds(c->started_ns, c->ready_ns));
    else
        json_null(j);
}

static void
put_worker(struct json *j, const struct child *c, int64_t now_ns)
{
    struct proc_usage usage;
    begin_worker(j, c, now_ns);
    if (proc_usage(c->pid, &usage) == 0) {
        json_key(j, "rss_bytes"), json_int(j, (int64_t)usage.rss_bytes);
        json_key(j, "cpu_s"), json_real(j, seconds(0, usage.cpu_ns));
        json_key(j, "os_threads"), json_int(j, usage.threads);
    }
    if (c->metrics != NULL) {
        json_key(j, "database_connections");
        json_int(j, (int64_t)metrics_get(&c->metrics->database.connections));
    }
    json_end(j, '}');
}

static void
put_worker_figures(struct json *j, const struct child *c, int64_t now_ns)
{
    struct figures f;
    figures_of_child(c, &f);
    begin_worker(j, c, now_ns);
    json_key(j, "figures"), figures_put(j, &f);
    json_end(j, '}');
}

static void
put_workers(const struct master *m, struct json *j,
            void (*put)(struct json *j, const struct child *c, int64_t now_ns))
{
    int64_t now_ns = clock_ns();
    json_begin(j, '[');
    for (unsigned slot = 0; slot < m->slots_n; slot++)
        CHILDREN_EACH(c, m)
            if (c->slot == slot)
                put(j, c, now_ns);
    json_end(j, ']');
}

static void
do_workers(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    struct json j = json_into(&job->out);
    put_workers(m, &j, put_worker);
    ctl_end(m, job, !j.is_lost);
}

/* Who has them; how they are, the workers know. */
static void
put_services(const struct master *m, struct json *j)
{
    const struct conf *conf = m->now.conf;
    json_begin(j, '[');
    for (size_t i = 0; i < conf->services_n; i++) {
        const struct conf_service *s = &conf->services[i];
        const struct service *one = services_find(m, s->name);
        bool is_one = s->scope == CONF_SCOPE_ONE;
        bool is_held = is_one && one != NULL && one->holder != NULL;
        json_begin(j, '{');
        json_key(j, "service"), json_string(j, s->name);
        json_key(j, "run"), json_string(j, s->run);
        json_key(j, "scope"), json_string(j, is_one ? "one" : "worker");
        json_key(j, "worker");
        if (is_held)
            json_int(j, one->holder->slot);
        else
            json_null(j);
        json_key(j, "state");
        json_string(j, !is_one                                        ? "in each worker"
                       : is_held                                      ? "given"
                       : one != NULL && one->over_in == m->now.number ? "over"
                                                                      : "waits for a worker");
        json_end(j, '}');
    }
    json_end(j, ']');
}

/* Who imports the application for the workers, where one does. */
static void
put_preload(const struct master *m, struct json *j)
{
    struct proc_usage usage;
    const struct preload *p = preload_now(m);
    if (p == NULL)
        return;
    json_key(j, "preload"), json_begin(j, '{');
    json_key(j, "pid"), json_int(j, p->pid);
    json_key(j, "state"), json_string(j, p->state == PRELOAD_READY ? "ready" : "imports");
    json_key(j, "age_s"), json_real(j, seconds(p->started_ns, clock_ns()));
    if (proc_usage(p->pid, &usage) == 0) {
        json_key(j, "rss_bytes"), json_int(j, (int64_t)usage.rss_bytes);
    }
    json_end(j, '}');
}

static unsigned
count(const struct master *m, enum child_state state)
{
    unsigned n = 0;
    CHILDREN_EACH(c, m)
        n += c->state == state;
    return n;
}

/* The begin of an object. */
static void
begin_server(struct json *j, const struct master *m)
{
    const struct conf *conf = m->now.conf;
    json_begin(j, '{');
    json_key(j, "server"), json_string(j, "ringcorn " RINGCORN_VERSION);
    json_key(j, "state");
    json_string(j, m->stop.state != STOP_NONE           ? "stopping"
                   : m->reload.state != RELOAD_NONE     ? "reloading"
                   : count(m, CHILD_READY) >= m->wanted ? "serving"
                                                        : "starting");
    json_key(j, "pid"), json_int(j, getpid());
    json_key(j, "uptime_s"), json_real(j, seconds(m->begun_ns, clock_ns()));
    json_key(j, "app"), json_string(j, conf->app);
    json_key(j, "config_file"), json_string(j, conf->file);
    json_key(j, "generation"), json_int(j, m->now.number);
    json_key(j, "binds"), json_begin(j, '[');
    BOUNDS_EACH(b, &m->sockets.bounds)
        json_string(j, b->text);
    json_end(j, ']');
    json_key(j, "workers_wanted"), json_int(j, m->wanted);
    json_key(j, "workers_ready"), json_int(j, count(m, CHILD_READY));
}

static void
do_status(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    struct json j = json_into(&job->out);
    begin_server(&j, m);
    json_key(&j, "workers"), put_workers(m, &j, put_worker);
    put_preload(m, &j);
    json_key(&j, "services"), put_services(m, &j);
    json_end(&j, '}');
    ctl_end(m, job, !j.is_lost);
}

/* Counters since the start, and gauges: two answers make rates (figures.h). */
static void
do_metrics(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    struct figures f;
    struct json j = json_into(&job->out);
    figures_of_all(m, &f);
    begin_server(&j, m);
    json_key(&j, "restarts"), figures_put_restarts(&j, m->metrics);
    json_key(&j, "bounds_s"), figures_put_bounds(&j);
    json_key(&j, "total"), figures_put(&j, &f);
    json_key(&j, "workers"), put_workers(m, &j, put_worker_figures);
    json_end(&j, '}');
    ctl_end(m, job, !j.is_lost);
}

static void
do_config(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    MEM_OWNED char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (out == NULL) {
        ctl_fail(m, job, "out of memory");
        return;
    }
    conf_print(m->now.conf, out);
    bool is_whole = fclose(out) == 0;
    struct json j = json_into(&job->out);
    json_begin(&j, '{');
    json_key(&j, "file"), json_string(&j, m->now.conf->file);
    json_key(&j, "yaml"), json_text(&j, (struct slice){ text, is_whole ? n : 0 });
    json_end(&j, '}');
    ctl_end(m, job, is_whole && !j.is_lost);
}

/* Of all workers, or of the one in "worker". */
static void
ask(struct master *m, struct ctl_job *job, struct json_ref args, enum control_kind kind,
    const char *member)
{
    struct json_ref which = json_ref_get(args, "worker");
    int64_t slot = -1;
    if (which.node != NULL && (!json_ref_int(which, &slot) || slot < 0 || slot >= m->slots_n)) {
        ctl_fail(m, job, "\"worker\": the workers are 0 to %u", m->slots_n - 1);
        return;
    }
    ctl_ask(m, job, kind, member, (int)slot);
}

/* --- those that tell ----------------------------------------------------------------------------- */

static void
look_at_reload(struct master *m, struct ctl_job *job, int64_t now_ns)
{
    (void)now_ns;
    if (m->stop.state != STOP_NONE) {
        ctl_fail(m, job, "the server stops");
        return;
    }
    const struct reload *r = &m->reload;
    bool is_over = (int)(r->ended - job->reload) >= 0;
    if (!is_over && (r->state != RELOAD_NONE || r->is_wanted_again))
        return;
    if (!is_over) {
        ctl_fail(m, job, "the reload was given up, as no workers are wanted any more");
    } else if (r->how == RELOAD_FAILED) {
        ctl_fail(m, job, "the reload failed, and the old workers go on; the error log says why");
    } else if (r->how == RELOAD_STUCK) {
        ctl_fail(m, job,
                 "some workers could not be replaced, and the old ones go on there; the error log "
                 "says why");
    } else {
        struct json j = json_into(&job->out);
        json_begin(&j, '{');
        json_key(&j, "generation"), json_int(&j, m->now.number);
        json_key(&j, "workers_ready"), json_int(&j, count(m, CHILD_READY));
        json_end(&j, '}');
        ctl_end(m, job, !j.is_lost);
    }
}

/* Answered when it is over. */
static void
do_reload(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    if (m->stop.state != STOP_NONE) {
        ctl_fail(m, job, "the server stops");
        return;
    }
    job->reload = m->reload.begun + 1; /* what goes on has read the configuration before */
    job->look = look_at_reload;
    reload_request(m, "ringcornctl");
    ctl_wait(m, job);
}

static void
do_scale(struct master *m, struct ctl_job *job, struct json_ref args)
{
    int64_t n;
    if (!json_ref_int(json_ref_get(args, "workers"), &n) || n < 0 || n > UINT16_MAX) {
        ctl_fail(m, job, "\"workers\" is how many there should be");
        return;
    }
    int err = slots_scale(m, (unsigned)n);
    if (err < 0) {
        ctl_fail(m, job, "%s",
                 err == -EBUSY    ? "the server stops, or another program takes over"
                 : err == -ERANGE ? "so many workers are not supported"
                                  : "their sockets cannot be had; the error log says why");
        return;
    }
    log_info("ringcornctl: %lld worker%s", (long long)n, n == 1 ? "" : "s");
    struct json j = json_into(&job->out);
    json_begin(&j, '{');
    json_key(&j, "workers_wanted"), json_int(&j, m->wanted);
    json_end(&j, '}');
    ctl_end(m, job, !j.is_lost);
}

/* Until the next reload, which takes log.level. */
static void
do_log_level(struct master *m, struct ctl_job *job, struct json_ref args)
{
    static const char *const names[] = { "debug", "info", "warning", "error" };
    const char *level = json_ref_text(json_ref_get(args, "level"));
    for (size_t i = 0; level != NULL && i < ARRAY_LEN(names); i++) {
        if (strcmp(level, names[i]) != 0)
            continue;
        log_set_level(LOG_INFO); /* so that this is said in any case */
        log_info("ringcornctl: log level %s, until the next reload", level);
        log_set_level((enum log_level)i);
        CHILDREN_EACH(c, m)
            if (c->asks >= 0)
                (void)control_send(c->asks, CONTROL_LOG_LEVEL, (int32_t)i, -1);
        struct json j = json_into(&job->out);
        json_begin(&j, '{');
        json_key(&j, "level"), json_string(&j, level);
        json_end(&j, '}');
        ctl_end(m, job, !j.is_lost);
        return;
    }
    ctl_fail(m, job, "\"level\" is debug, info, warning or error");
}

static void
say_done(struct master *m, struct ctl_job *job)
{
    struct json j = json_into(&job->out);
    json_begin(&j, '{'), json_end(&j, '}');
    ctl_end(m, job, !j.is_lost);
}

static void
do_reopen(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    reopen_logs(m, "ringcornctl");
    say_done(m, job);
}

static void
do_stop(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    log_info("ringcornctl: stop");
    stop_request(m, SIGTERM, EXIT_CODE_OK);
    say_done(m, job);
}

/* --- the table ------------------------------------------------------------------------------------- */

static void do_help(struct master *m, struct ctl_job *job, struct json_ref args);

static const struct {
    const char *name;
    /* NULL: workers are asked, and answer under its name */
    void (*run)(struct master *m, struct ctl_job *job, struct json_ref args);
    const char *arguments, *help;
    enum control_kind asks;
} commands[] = {
    { "status", do_status, "", .help = "what is served, where, and by whom" },
    { "workers", do_workers, "", .help = "the workers: state, age, memory, CPU" },
    { "metrics", do_metrics, "",
      .help = "what they count: requests, latencies, connections, threads, memory, CPU" },
    { "requests", NULL, "worker", .help = "requests in hand: age, state, thread",
      .asks = CONTROL_ASK_REQUESTS },
    { "tasks", NULL, "worker", .help = "requests, their asyncio tasks, and what each waits for",
      .asks = CONTROL_ASK_TASKS },
    { "threads", NULL, "worker", .help = "threads: what they do, with stacks",
      .asks = CONTROL_ASK_THREADS },
    { "services", NULL, "worker", .help = "services: state, since when, restarts, last error",
      .asks = CONTROL_ASK_SERVICES },
    { "blocks", NULL, "worker",
      .help = "what has blocked the event loop: where, how often, for how long",
      .asks = CONTROL_ASK_BLOCKS },
    { "advise", advise_do, "seconds",
      .help = "what would be better for each route, and what it would gain: since the start, or of "
              "so many seconds from now on" },
    { "config", do_config, "", .help = "the configuration in force" },
    { "reload", do_reload, "", .help = "as SIGHUP; answers when it is over" },
    { "scale", do_scale, "workers", .help = "so many workers from now on" },
    { "log-level", do_log_level, "level", .help = "what is logged, until the next reload" },
    { "reopen-logs", do_reopen, "", .help = "as SIGUSR1" },
    { "stop", do_stop, "", .help = "as SIGTERM" },
    { "help", do_help, "", .help = "this list" },
};

static void
do_help(struct master *m, struct ctl_job *job, struct json_ref args)
{
    (void)args;
    struct json j = json_into(&job->out);
    json_begin(&j, '[');
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        json_begin(&j, '{');
        json_key(&j, "command"), json_string(&j, commands[i].name);
        json_key(&j, "arguments"), json_string(&j, commands[i].arguments);
        json_key(&j, "help"), json_string(&j, commands[i].help);
        json_end(&j, '}');
    }
    json_end(&j, ']');
    ctl_end(m, job, !j.is_lost);
}

void
ctl_do(struct master *m, struct ctl_job *job, const char *command, struct json_ref args)
{
    list_init(&job->node);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, command) == 0) {
            if (commands[i].run != NULL)
                commands[i].run(m, job, args);
            else
                ask(m, job, args, commands[i].asks, commands[i].name);
            return;
        }
    }
    ctl_fail(m, job, "%.64s: no such command; \"help\" lists all", command);
}
