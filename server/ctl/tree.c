/* tree.c: the answer to `tasks` as a tree: workers, requests, tasks, task groups, and the frames that each task is suspended in. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum {
    /* of what stands left of a line; deeper ones move no further to the right */
    PREFIX_SIZE = 1024,
    FRAMES_MAX = 16, /* the innermost; --json has all */
};

/* Left of what is below an entry. */
struct prefix {
    char text[PREFIX_SIZE];
    size_t n;
};

static void
prefix_add(struct prefix *p, const char *text)
{
    size_t n = strlen(text);
    if (p->n + n < sizeof(p->text))
        memcpy(p->text + p->n, text, n + 1), p->n += n;
}

/* Begins the line of an entry; returns what is left of those below it. */
static struct prefix
branch(const struct prefix *above, bool is_last, FILE *out)
{
    struct prefix below = *above;
    fprintf(out, "%s%s", above->text, is_last ? "└─ " : "├─ ");
    prefix_add(&below, is_last ? "   " : "│  ");
    return below;
}

static const char *
text_of(struct json_ref object, const char *name)
{
    return json_ref_text(json_ref_get(object, name));
}

static void print_list(struct json_ref list, const struct prefix *above, FILE *out);

static void
print_task(struct json_ref task, const struct prefix *above, bool is_last, FILE *out)
{
    struct prefix below = branch(above, is_last, out);
    struct json_ref stack = json_ref_get(task, "stack"), groups = json_ref_get(task, "groups");
    const char *coroutine = text_of(task, "coroutine"), *name = text_of(task, "name");
    const char *wait = text_of(task, "waits_for"), *state = text_of(task, "state");
    fprintf(out, "%s  task '%s'  %s%s\n", coroutine != NULL ? coroutine : "-",
            name != NULL ? name : "-", wait != NULL ? "waits for " : "",
            wait != NULL    ? wait
            : state != NULL ? state
                            : "-");
    const char *bar = json_ref_n(groups) > 0 ? "│  " : "   ";
    size_t n = json_ref_n(stack), first = n > FRAMES_MAX ? n - FRAMES_MAX : 0;
    if (first > 0)
        fprintf(out, "%s%s(%zu outer frames)\n", below.text, bar, first);
    for (size_t i = first; i < n; i++) {
        const char *line = json_ref_text(json_ref_at(stack, i));
        fprintf(out, "%s%s%s\n", below.text, bar, line != NULL ? line : "-");
    }
    for (size_t i = 0; i < json_ref_n(groups); i++) {
        struct json_ref group = json_ref_at(groups, i);
        struct prefix inside = branch(&below, i + 1 == json_ref_n(groups), out);
        const char *by = text_of(group, "by");
        fprintf(out, "%s\n", by != NULL ? by : "-");
        print_list(json_ref_get(group, "tasks"), &inside, out);
    }
}

static void
print_list(struct json_ref list, const struct prefix *above, FILE *out)
{
    for (size_t i = 0; i < json_ref_n(list); i++)
        print_task(json_ref_at(list, i), above, i + 1 == json_ref_n(list), out);
}

static void
print_request(struct json_ref request, FILE *out)
{
    static const struct prefix none;
    const char *label = text_of(request, "request"), *age = text_of(request, "age_s");
    const char *state = text_of(request, "state");
    if (label == NULL)
        fputs("of no request\n", out);
    else if (age == NULL)
        fprintf(out, "%s  %s\n", label, state != NULL ? state : "");
    else
        fprintf(out, "%s  %.1f s\n", label, strtod(age, NULL));
    print_list(json_ref_get(request, "tasks"), &none, out);
}

void
ctl_print_tasks(struct json_ref workers, FILE *out)
{
    for (size_t i = 0; i < json_ref_n(workers); i++) {
        struct json_ref worker = json_ref_at(workers, i), requests = json_ref_get(worker, "tasks");
        const char *slot = text_of(worker, "worker"), *pid = text_of(worker, "pid");
        const char *error = text_of(worker, "error");
        fprintf(out, "%sworker %s, pid %s%s%s\n", i > 0 ? "\n" : "", slot != NULL ? slot : "-",
                pid != NULL ? pid : "-",
                error != NULL               ? ": "
                : json_ref_n(requests) == 0 ? ": no tasks"
                                            : "",
                error != NULL ? error : "");
        for (size_t r = 0; r < json_ref_n(requests); r++)
            print_request(json_ref_at(requests, r), out);
    }
}
