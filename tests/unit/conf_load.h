/* conf_load.h: for the tests of server/conf: loads in a folder of their own, with a clean
 * environment, and keeps what was printed on standard error. */
#ifndef RINGCORN_TESTS_CONF_LOAD_H
#define RINGCORN_TESTS_CONF_LOAD_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/load.h"
#include "tap.h"

struct loaded {
    int result;
    enum conf_action action;
    struct conf *conf;
    char errors[32 * 1024];
};

static char test_dir[] = "/tmp/ringcorn-conf-XXXXXX";

/* Call first: the folder a program was started in is remembered at the first load. */
__attribute__((unused)) static void
test_begin(void)
{
    clearenv();
    if (mkdtemp(test_dir) == NULL || chdir(test_dir) < 0) {
        perror("test folder");
        exit(1);
    }
}

__attribute__((unused)) static int
test_end(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", test_dir);
    if (chdir("/") < 0 || system(command) != 0)
        diag("%s was left behind", test_dir);
    return tap_done();
}

__attribute__((unused)) static void
write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

__attribute__((unused)) static int
capture_begin(void)
{
    fflush(stderr);
    int saved = dup(STDERR_FILENO), file = open("stderr", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (saved < 0 || file < 0 || dup2(file, STDERR_FILENO) < 0)
        exit(1);
    close(file);
    return saved;
}

__attribute__((unused)) static void
capture_end(int saved, char *out, size_t size)
{
    lseek(STDERR_FILENO, 0, SEEK_SET);
    ssize_t n = read(STDERR_FILENO, out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    dup2(saved, STDERR_FILENO);
    close(saved);
}

__attribute__((unused)) static struct loaded *
load_argv(const char *const *args)
{
    static struct loaded l;
    static char *argv[64] = { (char *)"ringcorn" };
    int argc = 1;
    conf_free(l.conf);
    for (; args[argc - 1] != NULL && argc < 63; argc++)
        argv[argc] = (char *)args[argc - 1];
    argv[argc] = NULL;
    l.conf = NULL;
    l.action = (enum conf_action) - 1;
    int saved = capture_begin();
    l.result = conf_load(argc, argv, &l.action, &l.conf);
    capture_end(saved, l.errors, sizeof(l.errors));
    return &l;
}

/* LOAD("app:app", "-w", "3")->conf; the last one's is freed by the next. */
#define LOAD(...) load_argv((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

/* The same from YAML in memory, named t.yaml in messages. */
__attribute__((unused)) static struct loaded *
load_yaml_text(const char *text)
{
    static struct loaded l;
    conf_free(l.conf);
    l.conf = NULL;
    int saved = capture_begin();
    l.result = conf_load_text("t.yaml", text, strlen(text), false, &l.conf);
    capture_end(saved, l.errors, sizeof(l.errors));
    return &l;
}

/* Is line, whole, among the errors? */
__attribute__((unused)) static bool
has_line(const struct loaded *l, const char *line)
{
    char wanted[2048];
    snprintf(wanted, sizeof(wanted), "ringcorn: %s\n", line);
    const char *at = strstr(l->errors, wanted);
    return at != NULL && (at == l->errors || at[-1] == '\n');
}

__attribute__((unused)) static unsigned
lines(const struct loaded *l)
{
    unsigned n = 0;
    for (const char *p = l->errors; *p != '\0'; p++)
        n += *p == '\n';
    return n;
}

/* The configuration as --print-config writes it; new. */
__attribute__((unused)) static char *
printed(const struct conf *conf)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    conf_print(conf, f);
    fclose(f);
    return text;
}

#endif
