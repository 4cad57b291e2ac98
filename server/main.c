/* main.c: turns arguments into a configuration and hands it to the master. Under the name ringcornctl it
 * answers questions about a configuration instead. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <liburing.h>
#include <llhttp.h>
#include <openssl/opensslv.h>
#include <yaml.h>

#include "base/base.h"
#include "conf/conf.h"
#include "ctl/ctl.h"
#include "master/master.h"
#include "net/tls.h"
#include "worker/worker.h"

#ifndef RINGCORN_VERSION
#define RINGCORN_VERSION "0.1.0.dev0"
#endif

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

/* The headers' versions, where the headers tell (liburing does from 2.4 on). */
#if defined(RINGCORN_LIBURING_VERSION)
#define LIBURING_BUILT RINGCORN_LIBURING_VERSION
#elif defined(IO_URING_VERSION_MAJOR)
#define LIBURING_BUILT TEXT_OF(IO_URING_VERSION_MAJOR) "." TEXT_OF(IO_URING_VERSION_MINOR)
#else
#define LIBURING_BUILT "older than 2.4"
#endif
#if defined(RINGCORN_LIBYAML_VERSION)
#define LIBYAML_BUILT RINGCORN_LIBYAML_VERSION
#else
#define LIBYAML_BUILT "0.1 or later"
#endif

/* The version in the file name of a loaded shared library ("liburing.so.2.3"), for libraries that
 * cannot be asked. out is PATH_MAX bytes. Returns "linked in" where there is no shared library, or
 * its name has no version. */
static const char *
version_by_file(const void *symbol, char *out)
{
    Dl_info info;
    if (dladdr(symbol, &info) == 0 || info.dli_fname == NULL ||
        realpath(info.dli_fname, out) == NULL)
        return "linked in";
    const char *version = strstr(out, ".so.");
    return version ? version + strlen(".so.") : "linked in";
}

static void
print_versions(FILE *out)
{
    char path[PATH_MAX];
    fprintf(out, "ringcorn %s\n", RINGCORN_VERSION);
    fprintf(out, "compiler %s\n", COMPILER);
    fprintf(out, "llhttp built with %d.%d.%d\n", LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR,
            LLHTTP_VERSION_PATCH);
    fprintf(out, "liburing built with %s, running %s\n", LIBURING_BUILT,
            version_by_file((const void *)(uintptr_t)io_uring_queue_exit, path));
    fprintf(out, "libyaml built with %s, running %s\n", LIBYAML_BUILT, yaml_get_version_string());
    fprintf(out, "openssl built with %s, running %s\n", OPENSSL_VERSION_STR, tls_library());
    fprintf(out, "glibc built with %d.%d, running %s\n", __GLIBC__, __GLIBC_MINOR__,
            gnu_get_libc_version());
    worker_versions(out);
}

/* What --check-config judged: the file, or that there was none. */
static void
print_checked(const struct conf *conf, FILE *out)
{
    fprintf(out, "ringcorn: the configuration is right (%s)\n",
            conf->file ? conf->file : "no YAML file");
    if (conf->app == NULL)
        fprintf(out, "ringcorn: no application is named, so none was looked at\n");
}

/* The path of this program: Python's files lie beside it, and children are told it. Returns 0 or
 * -errno. */
static int
find_exe(char out[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n < 0)
        return -errno;
    out[n] = '\0';
    return 0;
}

/* Whoever starts us may have closed 0, 1 or 2. The next socket would get that number, and print() would write into it. */
static void
fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        /* The lowest free number is fd, as those below are open. */
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return; /* where there is no /dev/null, better served without */
    }
}

/* --check-config: the file, then the application, which is imported as a worker would. Returns the exit code. */
static int
check(const struct master_args *args)
{
    print_checked(args->conf, stdout);
    int code = master_check(args);
    if (code == EXIT_CODE_OK)
        master_explain(args->conf, stdout);
    return code;
}

/* Everything that is said on standard output has got there, or the exit code tells. */
static int
said(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    log_operator("cannot write to standard output: %s", strerror(errno));
    return EXIT_CODE_SYSTEM;
}

int
main(int argc, char **argv)
{
    fill_standard_descriptors();
    if (argc > 0 && strcmp(basename(argv[0]), "ringcornctl") == 0)
        return said(ctl_main(argc, argv));
    enum conf_action action;
    struct conf *conf;
    char exe[PATH_MAX];
    int error = conf_load(argc, argv, &action, &conf);
    if (error < 0)
        return -error;
    switch (action) {
    case CONF_RUN:
    case CONF_CHECK:
        break;
    case CONF_HEALTH: {
        int code = said(master_ask(conf));
        conf_free(conf);
        return code;
    }
    case CONF_VERSION:
        print_versions(stdout);
        return said(EXIT_CODE_OK);
    case CONF_HELP:
        conf_print_help(stdout);
        return said(EXIT_CODE_OK);
    case CONF_REFERENCE:
        conf_print_reference(stdout);
        return said(EXIT_CODE_OK);
    case CONF_PRINT:
        conf_print(conf, stdout);
        conf_free(conf);
        return said(EXIT_CODE_OK);
    }
    if ((error = find_exe(exe)) < 0) {
        log_operator("cannot tell where this program lies: /proc/self/exe: %s; is /proc mounted?",
                     strerror(-error));
        conf_free(conf);
        return EXIT_CODE_SYSTEM;
    }
    struct master_args args = { .conf = conf, .argc = argc, .argv = argv, .exe = exe };
    if (action == CONF_RUN)
        return master_run(&args);
    int code = check(&args);
    conf_free(conf);
    return said(code);
}
