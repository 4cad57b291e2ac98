/* test_log_drain.c: master/log_drain.c beside threads that log, and while files are changed: every line is written once and whole. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base.h"
#include "base/owned.h"
#include "master/log_drain.h"
#include "tap.h"

enum { THREADS = 4, LINES = 2000, CHANGES = 20 };

/* Lines of this process, as the master's own threads make them. */
static void *
says(void *arg)
{
    int n = (int)(intptr_t)arg;
    for (int i = 0; i < LINES; i++) {
        log_warning("thread %d line %d end", n, i);
        if (i % 50 == 0)
            poll(NULL, 0, 1);
    }
    return NULL;
}

static int
temporary(char *path)
{
    strcpy(path, "/tmp/ringcorn-log-drain-XXXXXX");
    return mkstemp(path);
}

/* Every line of every thread once, in its order, and nothing in between. */
static void
check(const char *paths[], int n)
{
    int next[THREADS] = { 0 }, strange = 0;
    char line[256];
    for (int f = 0; f < n; f++) {
        FILE *in = fopen(paths[f], "r");
        while (in != NULL && fgets(line, sizeof(line), in) != NULL) {
            int thread, number, end = 0;
            const char *at = strstr(line, "thread ");
            if (at == NULL ||
                sscanf(at, "thread %d line %d end\n%n", &thread, &number, &end) != 2 ||
                at[end] != '\0' || thread < 0 || thread >= THREADS || number != next[thread]++)
                strange++;
        }
        if (in != NULL)
            fclose(in);
    }
    CHECK(strange == 0);
    for (int i = 0; i < THREADS; i++)
        ok(next[i] == LINES, "all %d lines of thread %d are there: %d", LINES, i, next[i]);
}

/* The thread writes when it comes to it. */
static void
await_lines(const char *path, int n)
{
    for (int waited = 0, lines = 0; waited < 10000 && lines < n; waited += 10) {
        FILE *in = fopen(path, "r");
        lines = 0;
        for (int c; in != NULL && (c = fgetc(in)) != EOF;)
            lines += c == '\n';
        if (in != NULL)
            fclose(in);
        if (lines < n)
            poll(NULL, 0, 10);
    }
}

int
main(void)
{
    char names[2][64];
    FD_OWNED int first = temporary(names[0]);
    FD_OWNED int second = temporary(names[1]);
    struct log_drain *d = log_drain_start();
    if (!ok(d != NULL && first >= 0 && second >= 0, "it starts"))
        return tap_done();
    log_drain_to(d, first, -1);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, says, (void *)(intptr_t)i);
    for (int i = 0; i < CHANGES; i++) {
        /* Workers come and go, and what the main thread holds for a fork stands still. */
        struct log_source *source = log_drain_add(d, "worker", (unsigned)i, NULL);
        log_drain_hold(d);
        log_drain_release(d);
        poll(NULL, 0, 2);
        log_drain_end(d, source);
        log_drain_to(d, first, -1); /* another descriptor of the same file */
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    await_lines(names[0], THREADS * LINES);
    log_drain_to(d, second, -1);
    check((const char *[]){ names[0] }, 1);
    log_warning("the other file");
    log_drain_stop(d);
    char text[256] = "";
    FD_OWNED int in = open(names[1], O_RDONLY | O_CLOEXEC);
    ssize_t n = read(in, text, sizeof(text) - 1);
    CHECK(n > 0 && strstr(text, "the other file\n") != NULL);
    unlink(names[0]);
    unlink(names[1]);
    return tap_done();
}
