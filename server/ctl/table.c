/* table.c: the server's answers for people. It knows nothing of commands: names of members are the heads of columns, their ends say the unit. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum { COLUMNS_MAX = 32, WIDTH_MAX = 100 };

static bool
ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n > k && strcmp(text + n - k, end) == 0;
}

/* A value in its cell; to: of size bytes. */
static void
cell(const char *name, struct json_ref value, char *to, size_t size)
{
    const char *text = json_ref_text(value);
    if (text == NULL)
        snprintf(to, size, "%s", "-");
    else if (ends_with(name, "_bytes"))
        snprintf(to, size, "%.1f MiB", strtod(text, NULL) / (1024 * 1024));
    else if (ends_with(name, "_s"))
        snprintf(to, size, "%.1f", strtod(text, NULL));
    else
        snprintf(to, size, "%s", text);
}

/* "rss_bytes" -> "rss", "age_s" -> "age, s" */
static void
head(const char *name, char *to, size_t size)
{
    int n = (int)strlen(name);
    if (ends_with(name, "_bytes"))
        snprintf(to, size, "%.*s", n - 6, name);
    else if (ends_with(name, "_s"))
        snprintf(to, size, "%.*s, s", n - 2, name);
    else
        snprintf(to, size, "%s", name);
    for (char *p = to; *p != '\0'; p++)
        if (*p == '_')
            *p = ' ';
}

static bool
is_nested(struct json_ref value)
{
    return json_ref_is_object(value) || json_ref_is_array(value);
}

static void print(struct json_ref value, int indent, FILE *out);

/* One line each; for stacks and lists of names. */
static void
print_texts(struct json_ref list, int indent, FILE *out)
{
    for (size_t i = 0; i < json_ref_n(list); i++) {
        const char *text = json_ref_text(json_ref_at(list, i));
        fprintf(out, "%*s%s\n", indent, "", text != NULL ? text : "-");
    }
}

static void
print_nested(struct json_ref row, int indent, FILE *out)
{
    for (size_t i = 0; i < json_ref_n(row); i++) {
        struct json_ref value = json_ref_at(row, i);
        if (is_nested(value) && json_ref_n(value) > 0)
            print(value, indent, out);
    }
}

static void
print_table(struct json_ref rows, int indent, FILE *out)
{
    const char *names[COLUMNS_MAX];
    int width[COLUMNS_MAX];
    char text[512];
    size_t n = 0;
    /* All names of all rows, in the order in which they first come. */
    for (size_t r = 0; r < json_ref_n(rows); r++) {
        struct json_ref row = json_ref_at(rows, r);
        for (size_t i = 0; i < json_ref_n(row); i++) {
            const char *name = json_ref_name(row, i);
            size_t c = 0;
            while (c < n && strcmp(names[c], name) != 0)
                c++;
            if (is_nested(json_ref_at(row, i)) || (c == n && n == COLUMNS_MAX))
                continue;
            if (c == n) {
                head(name, text, sizeof(text));
                names[n] = name;
                width[n++] = (int)strlen(text);
            }
            cell(name, json_ref_at(row, i), text, sizeof(text));
            int w = (int)strlen(text);
            width[c] = w > width[c] ? (w < WIDTH_MAX ? w : WIDTH_MAX) : width[c];
        }
    }
    fprintf(out, "%*s", indent, "");
    for (size_t c = 0; c < n; c++) {
        head(names[c], text, sizeof(text));
        fprintf(out, "%-*s%s", c + 1 < n ? width[c] : 0, text, c + 1 < n ? "  " : "\n");
    }
    for (size_t r = 0; r < json_ref_n(rows); r++) {
        struct json_ref row = json_ref_at(rows, r);
        fprintf(out, "%*s", indent, "");
        for (size_t c = 0; c < n; c++) {
            cell(names[c], json_ref_get(row, names[c]), text, sizeof(text));
            fprintf(out, "%-*s%s", c + 1 < n ? width[c] : 0, text, c + 1 < n ? "  " : "\n");
        }
        print_nested(row, indent + 4, out);
    }
}

static void
print_object(struct json_ref object, int indent, FILE *out)
{
    char name[128], text[4096];
    for (size_t i = 0; i < json_ref_n(object); i++) {
        struct json_ref value = json_ref_at(object, i);
        head(json_ref_name(object, i), name, sizeof(name));
        if (is_nested(value)) {
            fprintf(out, "%*s%s:%s\n", indent, "", name, json_ref_n(value) == 0 ? " -" : "");
            print(value, indent + 4, out);
            continue;
        }
        cell(json_ref_name(object, i), value, text, sizeof(text));
        fprintf(out, "%*s%s: %s\n", indent, "", name, text);
    }
}

static void
print(struct json_ref value, int indent, FILE *out)
{
    if (json_ref_is_object(value))
        print_object(value, indent, out);
    else if (json_ref_is_array(value) && json_ref_is_object(json_ref_at(value, 0)))
        print_table(value, indent, out);
    else if (json_ref_is_array(value))
        print_texts(value, indent, out);
}

void
ctl_print(struct json_ref value, FILE *out)
{
    print(value, 0, out);
}
