/* embed.h: the interpreter inside the program. One per worker process, started after the fork. */
#ifndef RINGCORN_PY_EMBED_H
#define RINGCORN_PY_EMBED_H

#include <stdio.h>

struct embed_options {
    const char *exe;          /* the running program: its Python package lies beside it */
    const char *venv;         /* folder of a virtual environment, or NULL */
    const char *app_dir;      /* first on sys.path */
    char *const *python_path; /* then these */
    size_t python_path_n;
    char *const *python_options; /* as behind -X */
    size_t python_options_n;
    int argc; /* becomes sys.argv */
    char **argv;
};

/* Starts CPython with the calling thread as its main thread; afterwards the caller holds the GIL. Signals are left alone. Returns 0, or an
 * enum exit_code after one log_operator() line that says what is wrong and what to do. */
int embed_start(const struct embed_options *options);

/* Py_FinalizeEx(): atexit handlers, flushing. GIL held. Returns 0 or -1. */
int embed_stop(void);

/* "CPython 3.11.7 (3.11.7 (main, ...) [GCC 12.2.0])" of the library that is loaded; needs no interpreter. */
void embed_version(FILE *out);

#endif
