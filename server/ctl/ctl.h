/* ctl.h: ringcornctl, the program by another name: what an operator asks of a running server, or of a configuration.
 *
 *   ctl.c      the command line
 *   ask.c      one exchange with the server over control.socket (master/ctl.h has the protocol)
 *   table.c    JSON as tables for people      tree.c  the tasks of workers, as a tree      advise.c  verdicts
 *   top.c      the live view: the terminal, and asking again and again      top_view.c  what it shows
 *
 * One thread, no Python; errors are printed by log_operator(). */
#ifndef RINGCORN_CTL_H
#define RINGCORN_CTL_H

#include <stdio.h>

#include "base/buf.h"
#include "conf/json_doc.h"

/* Runs ringcornctl. Returns the exit code: of enum exit_code; a command that the server refuses is EXIT_CODE_SYSTEM. Whether standard output took it all is the caller's
 * to see. */
int ctl_main(int argc, char **argv);

/* Returns a connected descriptor, or -1 with why. */
int ctl_connect(const char *path, char *why, size_t why_size);
/* Appends the line that asks. arguments: JSON, an object. 0 or -ENOMEM. */
int ctl_question(struct buf *out, const char *command, const char *arguments);
/* Reads the line that answers; doc is to be freed in any case. Returns 0 and *result, or -1 with why. */
int ctl_answer(struct json_doc *doc, const struct buf *line, struct json_ref *result, char *why,
               size_t why_size);
/* Sends command with arguments (JSON, an object) and reads the answer, which stays in doc and in line. Returns 0 and *result; or -1 after saying why. */
int ctl_exchange(int fd, const char *command, const char *arguments, struct buf *line,
                 struct json_doc *doc, struct json_ref *result);

/* ringcornctl top: until q, Ctrl-C, or for one frame. Returns the exit code. */
int ctl_top(const char *path, int64_t interval_ms, bool is_once);

/* --- top_view.c --- */
struct top_view;
struct top_size {
    int rows, columns; /* 0 = as many as it takes */
    bool is_styled;
};
struct top_view *top_view_new(void);
void top_view_free(struct top_view *v);
/* An answer to `metrics`. Returns whether rates can be told: there was one before, of the same server. */
bool top_view_take(struct top_view *v, struct json_ref metrics);
/* Appends a frame; lines end in "\n", the last one too. requests: the answer to `requests`, or none. trouble: what is wrong with the
 * server, or NULL. 0 or -ENOMEM. */
int top_view_draw(const struct top_view *v, struct json_ref metrics, struct json_ref requests,
                  const char *trouble, struct top_size size, struct buf *out);

/* An array of objects as a table, an object as lines of "name: value"; what is nested comes below, indented. */
void ctl_print(struct json_ref value, FILE *out);
/* The answer to `advise`. */
void ctl_print_advice(struct json_ref advice, FILE *out);
/* The answer to `tasks`. */
void ctl_print_tasks(struct json_ref workers, FILE *out);

#endif
