/* advise.c: the answer to `advise` for people: a sentence for the threads and one for each route, then their figures. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static double
number(struct json_ref object, const char *name)
{
    const char *text = json_ref_text(json_ref_get(object, name));
    return text != NULL ? strtod(text, NULL) : 0;
}

static const char *
text_of(struct json_ref object, const char *name)
{
    const char *text = json_ref_text(json_ref_get(object, name));
    return text != NULL ? text : "";
}

/* Milliseconds: "1400", "0.3", "-" where there is nothing. */
static const char *
ms(double s, char out[24])
{
    if (s <= 0)
        strcpy(out, "-");
    else
        snprintf(out, 24, s >= 0.1 ? "%.0f" : s >= 0.01 ? "%.1f" : "%.2f", s * 1e3);
    return out;
}

static const struct {
    const char *head, *name;
} columns[] = {
    { "request", "request_s" },   { "queue", "queue_s" },   { "thread", "thread_s" },
    { "CPU", "thread_cpu_s" },    { "GIL", "gil_s" },       { "network", "network_s" },
    { "sleep", "sleep_s" },       { "other", "other_s" },   { "unknown", "unknown_s" },
    { "database", "database_s" }, { "loop", "loop_s" },     { "its CPU", "loop_cpu_s" },
    { "its GIL", "loop_gil_s" },  { "awaits", "awaits_s" }, { "longest step", "longest_step_s" },
};

static void
print_figures(struct json_ref routes, FILE *out)
{
    int width = (int)strlen("route");
    for (size_t i = 0; i < json_ref_n(routes); i++) {
        int n = (int)strlen(text_of(json_ref_at(routes, i), "route"));
        width = n > width ? n : width;
    }
    fprintf(out, "%-*s  %8s", width, "route", "requests");
    for (size_t k = 0; k < ARRAY_LEN(columns); k++)
        fprintf(out, "  %7s", columns[k].head);
    fprintf(out, "  crossings  threads\n");
    for (size_t i = 0; i < json_ref_n(routes); i++) {
        struct json_ref r = json_ref_at(routes, i);
        fprintf(out, "%-*s  %8.0f", width, text_of(r, "route"), number(r, "requests"));
        for (size_t k = 0; k < ARRAY_LEN(columns); k++) {
            char text[24];
            int room = (int)strlen(columns[k].head);
            fprintf(out, "  %*s", room > 7 ? room : 7, ms(number(r, columns[k].name), text));
        }
        fprintf(out, "  %9.1f  %7.2f\n", number(r, "crossings"), number(r, "busy_threads"));
    }
}

void
ctl_print_advice(struct json_ref advice, FILE *out)
{
    struct json_ref routes = json_ref_get(advice, "routes");
    if (json_ref_n(routes) == 0) {
        fprintf(out, "no requests yet\n");
        return;
    }
    fprintf(out, "%s\n", text_of(json_ref_get(advice, "threads"), "text"));
    for (size_t i = 0; i < json_ref_n(routes); i++)
        fprintf(out, "%s\n", text_of(json_ref_at(routes, i), "text"));
    fprintf(out, "\nOf %.0f s, by the mean request, in ms:\n\n", number(advice, "seconds"));
    print_figures(routes, out);
}
