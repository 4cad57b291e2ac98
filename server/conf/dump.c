/* dump.c: the table written out: --print-config, --help, --config-reference. */
#include <ctype.h>

#include "conf/load.h"

/* --- YAML ------------------------------------------------------------------------------------- */

/* The code point at *p, which moves behind it. Values are UTF-8 (value.c saw to it). */
static unsigned
code_point(const unsigned char **p)
{
    const unsigned char *s = *p;
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    unsigned c = n == 1 ? s[0] : s[0] & (0xffU >> (n + 1));
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3f);
    *p = s + n;
    return c;
}

/* Needs an escape in YAML 1.1: what is not printable, and what counts as a line break. */
static bool
is_escaped(unsigned c)
{
    return c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff ||
           c == 0xfffe || c == 0xffff;
}

static void
print_text(const char *text, FILE *out)
{
    const char *plain = text;
    while (isalnum((unsigned char)*plain) || (*plain != '\0' && strchr("/._-", *plain) != NULL))
        plain++;
    if (*plain == '\0' && (isalpha((unsigned char)text[0]) || text[0] == '/') &&
        strcmp(text, "null") != 0) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        const unsigned char *start = p;
        unsigned c = code_point(&p);
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", (char)c);
        else if (is_escaped(c))
            fprintf(out, "\\u%04x", c);
        else
            fwrite(start, 1, (size_t)(p - start), out);
    }
    fputc('"', out);
}

static void
print_texts(const struct conf_strings *list, FILE *out)
{
    fputc('[', out);
    for (size_t i = 0; i < list->n; i++) {
        fputs(i > 0 ? ", " : "", out);
        print_text(list->v[i], out);
    }
    fputc(']', out);
}

static void
print_words(const struct key *k, uint64_t value, FILE *out)
{
    const char *comma = "";
    fputc('[', out);
    for (const struct key_word *w = k->words; w->word != NULL; w++)
        if (value & w->value) {
            fprintf(out, "%s%s", comma, w->word);
            comma = ", ";
        }
    fputc(']', out);
}

static void
print_binds(const struct conf *conf, FILE *out)
{
    for (size_t i = 0; i < conf->binds_n; i++) {
        fputs(i > 0 ? ", " : "[", out);
        print_text(conf->binds[i].text, out);
    }
    fputs(conf->binds_n > 0 ? "]" : "[]", out);
}

/* Headers of one name stand side by side (value.c), and are printed as a list. */
static void
print_headers(const struct conf *conf, FILE *out)
{
    if (conf->headers_n == 0) {
        fputs(" {}", out);
        return;
    }
    const struct conf_header *h = conf->headers, *end = h + conf->headers_n;
    while (h < end) {
        const struct conf_header *next = h + 1;
        while (next < end && strcmp(next->name, h->name) == 0)
            next++;
        fputs("\n  ", out);
        print_text(h->name, out);
        fputs(next - h > 1 ? ": [" : ": ", out);
        for (const struct conf_header *each = h; each < next; each++) {
            fputs(each > h ? ", " : "", out);
            print_text(each->value, out);
        }
        fputs(next - h > 1 ? "]" : "", out);
        h = next;
    }
}

static void
print_statics(const struct conf *conf, FILE *out)
{
    const struct key expires = { .type = KEY_DURATION };
    char text[32] = "off";
    if (conf->statics_n == 0)
        fputs(" []", out);
    for (size_t i = 0; i < conf->statics_n; i++) {
        const struct conf_static *s = &conf->statics[i];
        if (s->expires_ms > 0)
            key_format(&expires, (uint64_t)s->expires_ms, text, sizeof(text));
        else
            strcpy(text, "off");
        fputs("\n  - {route: ", out);
        print_text(s->route[0] != '\0' ? s->route : "/", out);
        fputs(", dir: ", out);
        print_text(s->dir, out);
        if (s->index != NULL) {
            fputs(", index: ", out);
            print_text(s->index, out);
        }
        fprintf(out,
                ", expires: %s, symlinks: %s, dotfiles: %s, precompressed: %s, fallthrough: %s}",
                text, static_symlinks_word(s), s->dotfiles ? "true" : "false",
                s->precompressed ? "true" : "false", s->fallthrough ? "true" : "false");
    }
}

static void
print_services(const struct conf *conf, FILE *out)
{
    if (conf->services_n == 0)
        fputs(" {}", out);
    for (size_t i = 0; i < conf->services_n; i++) {
        const struct conf_service *s = &conf->services[i];
        fputs("\n  ", out);
        print_text(s->name, out);
        fputs(": {run: ", out);
        print_text(s->run, out);
        fprintf(out, ", scope: %s, restart: %s}", service_scope_word(s), service_restart_word(s));
    }
}

static const char *
word_of(const struct key *k, uint64_t value)
{
    const struct key_word *w = k->words;
    while (w[1].word != NULL && w->value != value)
        w++;
    return w->word;
}

static void
print_number(const struct key *k, uint64_t value, FILE *out)
{
    char text[64];
    if (value == 0 && k->zero != NULL) {
        fputs(k->zero, out);
        return;
    }
    key_format(k, value, text, sizeof(text));
    fputs(text, out);
}

static void
print_value(const struct conf *conf, const struct key *k, FILE *out)
{
    /* key_text() and its like find the field; nothing is written through them here. */
    struct conf *c = (struct conf *)conf;
    if (k->type != KEY_HEADERS && k->type != KEY_STATICS && k->type != KEY_SERVICES)
        fputc(' ', out);
    switch (k->type) {
    case KEY_BOOL:
        fputs(key_number(conf, k) ? "true" : "false", out);
        break;
    case KEY_COUNT:
    case KEY_SIZE:
    case KEY_DURATION:
    case KEY_MODE:
        print_number(k, key_number(conf, k), out);
        break;
    case KEY_WORD:
        fputs(word_of(k, key_number(conf, k)), out);
        break;
    case KEY_WORDS:
        print_words(k, key_number(conf, k), out);
        break;
    case KEY_TEXT:
    case KEY_PATH:
        if (*key_text(c, k) != NULL)
            print_text(*key_text(c, k), out);
        else
            fputs("null", out);
        break;
    case KEY_TEXTS:
    case KEY_PATHS:
        print_texts(key_texts(c, k), out);
        break;
    case KEY_BINDS:
        print_binds(conf, out);
        break;
    case KEY_HEADERS:
        print_headers(conf, out);
        break;
    case KEY_STATICS:
        print_statics(conf, out);
        break;
    case KEY_SERVICES:
        print_services(conf, out);
        break;
    }
}

void
conf_print(const struct conf *conf, FILE *out)
{
    const char *group = "";
    size_t group_n = 0;
    for (size_t i = 0; i < schema_n; i++) {
        const struct key *k = &schema[i];
        size_t n = key_group_size(k);
        const char *inner = memchr(k->name, '.', n); /* a group within a group */
        int indent = inner != NULL ? 2 : 0;
        size_t skip = inner != NULL ? (size_t)(inner + 1 - k->name) : 0;
        if (n > 0 && (n != group_n || memcmp(group, k->name, n) != 0))
            fprintf(out, "%*s%.*s:\n", indent, "", (int)(n - skip), k->name + skip);
        group = k->name;
        group_n = n;
        fprintf(out, "%*s%s:", n > 0 ? indent + 2 : 0, "", n > 0 ? k->name + n + 1 : k->name);
        print_value(conf, k, out);
        fputc('\n', out);
    }
}

/* --- help ------------------------------------------------------------------------------------- */

enum { HELP_COLUMN = 30, HELP_WIDTH = 100 };

/* Text in the second column, broken between words. used: bytes already on the line. */
static void
print_wrapped(const char *text, size_t used, FILE *out)
{
    size_t column = used;
    if (used + 1 > HELP_COLUMN) {
        fputc('\n', out);
        column = 0;
    }
    for (const char *p = text; *p != '\0';) {
        size_t word = strcspn(p, " ");
        if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
            fputc('\n', out);
            column = 0;
        }
        if (column < HELP_COLUMN)
            column += (size_t)fprintf(out, "%*s", (int)(HELP_COLUMN - column), "");
        else
            column += (size_t)fprintf(out, " ");
        column += (size_t)fprintf(out, "%.*s", (int)word, p);
        p += word + strspn(p + word, " ");
    }
    fputc('\n', out);
}

/* What stands for a key's value: "N|auto" */
static void
metavar(const struct key *k, char *out, size_t size)
{
    const char *kind = "VALUE";
    if (k->type == KEY_BOOL) {
        out[0] = '\0';
        return;
    }
    if (k->words != NULL && k->value == NULL) {
        size_t n = 0;
        for (const struct key_word *w = k->words; w->word != NULL && n < size; w++)
            if (w == k->words || w->value != w[-1].value)
                n += (size_t)snprintf(out + n, size - n, "%s%s", w > k->words ? "|" : "", w->word);
        return;
    }
    if (k->value != NULL)
        kind = k->value;
    else if (k->type == KEY_COUNT)
        kind = "N";
    else if (k->type == KEY_SIZE)
        kind = "SIZE";
    else if (k->type == KEY_DURATION)
        kind = "TIME";
    else if (k->type == KEY_MODE)
        kind = "MODE";
    else if (k->type == KEY_PATH)
        kind = "FILE";
    snprintf(out, size, "%s%s%s", kind, k->zero ? "|" : "", k->zero ? k->zero : "");
}

/* "-w, --workers N|auto": letters first, then the long names with the one by the rule first. */
static void
key_usage(const struct key *k, char *out, size_t size)
{
    char own[NAME_MAX_KEY], value[NAME_MAX_KEY] = "", longs[4 * NAME_MAX_KEY] = "";
    size_t n = 0;
    out[0] = '\0';
    key_option(k, own, sizeof(own));
    for (const char *p = k->options; p != NULL && *p != '\0';) {
        size_t word = strcspn(p, " ");
        if (word == 2)
            n += (size_t)snprintf(out + n, size - n, "%.2s, ", p);
        else
            snprintf(longs + strlen(longs), sizeof(longs) - strlen(longs), ", %.*s", (int)word, p);
        p += word + strspn(p + word, " ");
    }
    metavar(k, value, sizeof(value));
    if (k->type == KEY_BOOL && longs[0] == '\0')
        snprintf(out + n, size - n, "%s, --no-%s", own, own + 2);
    else if (k->type == KEY_BOOL)
        snprintf(out + n, size - n, "%s, --no-%s", longs + 2, longs + 4);
    else
        snprintf(out + n, size - n, "%s%s%s%s", own, longs, value[0] ? " " : "", value);
}

static void
default_of(const struct key *k, char *out, size_t size)
{
    snprintf(out, size, "%s", k->initial ? k->initial : "");
}

static void
print_help_key(const struct key *k, FILE *out)
{
    char usage[512], help[512], initial[NAME_MAX_KEY];
    key_usage(k, usage, sizeof(usage));
    default_of(k, initial, sizeof(initial));
    if (initial[0] != '\0')
        snprintf(help, sizeof(help), "%s (%s)", k->help, initial);
    else
        snprintf(help, sizeof(help), "%s", k->help);
    print_wrapped(help, (size_t)fprintf(out, "  %s", usage), out);
}

void
conf_print_help(FILE *out)
{
    fputs("usage: ringcorn [options] module:attribute\n"
          "\n"
          "Serves the ASGI application `attribute` of the Python module `module`.\n"
          "\n"
          "Every option is a key of the YAML file too: --timeouts-header is `header` below "
          "`timeouts:`, and\n"
          "RINGCORN_TIMEOUTS_HEADER in the environment. The command line wins over the "
          "environment, that over the\n"
          "file. Times: 500ms, 30s, 5m, or seconds; sizes: bytes, 64KiB, 16MiB. Lists: repeat the "
          "option.\n"
          "\n",
          out);
    for (size_t i = 0; i < cli_options_n; i++) {
        const struct cli_option *o = &cli_options[i];
        int used = fprintf(out, "  %s%s%s%s%s", o->letter ? o->letter : "", o->letter ? ", " : "",
                           o->name, o->value ? " " : "", o->value ? o->value : "");
        print_wrapped(o->help, (size_t)used, out);
    }
    const char *group = "";
    size_t group_n = (size_t)-1;
    for (size_t i = 0; i < schema_n; i++) {
        const struct key *k = &schema[i];
        size_t n = key_group_size(k);
        if (k->is_positional)
            continue;
        if (n != group_n || memcmp(group, k->name, n) != 0)
            fputc('\n', out);
        group = k->name;
        group_n = n;
        print_help_key(k, out);
    }
    fputs("\n"
          "Signals to the master: TERM ends gracefully, INT and QUIT quickly, HUP reads the "
          "configuration\n"
          "again and replaces the workers one by one, TTIN and TTOU add and remove a worker, USR1 "
          "opens\n"
          "the log files again.\n"
          "Exit codes: 0 clean; 1 sockets, files, permissions; 2 usage or configuration; 3 the "
          "application\n"
          "raised at import or start; 4 module or attribute not found.\n",
          out);
}

/* --- reference -------------------------------------------------------------------------------- */

/* Text in a cell of a Markdown table. */
static void
print_cell(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '|' || *text == '<' || *text == '*')
            fputc('\\', out);
        fputc(*text, out);
    }
}

static void
print_reference_key(const struct key *k, FILE *out)
{
    char text[512];
    fprintf(out, "| `%s` | ", k->name);
    if (k->is_positional) {
        fputs("the argument", out);
    } else {
        char own[NAME_MAX_KEY];
        key_option(k, own, sizeof(own));
        fprintf(out, "`%s`", own);
        for (const char *p = k->options; p != NULL && *p != '\0';) {
            size_t word = strcspn(p, " ");
            fprintf(out, ", `%.*s`", (int)word, p);
            p += word + strspn(p + word, " ");
        }
    }
    key_variable(k, text, sizeof(text));
    fprintf(out, " | `%s` | ", text);
    if (k->initial != NULL && k->initial[0] != '\0')
        fprintf(out, "`%s`", k->initial);
    fputs(" | ", out);
    key_expected(k, text, sizeof(text));
    print_cell(text, out);
    fputs(" | ", out);
    print_cell(k->help, out);
    fputs(" |\n", out);
}

void
conf_print_reference(FILE *out)
{
    fputs("| key | option | variable | default | values | meaning |\n|---|---|---|---|---|---|\n",
          out);
    for (size_t i = 0; i < schema_n; i++)
        print_reference_key(&schema[i], out);
}
