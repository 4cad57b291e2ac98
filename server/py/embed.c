/* embed.c: starting CPython the way a user of `python` expects, from a program that is not `python`.
 *
 * The standard library is that of the Python the program was built with (PY_HOME); a virtual environment contributes its
 * site-packages and its `python` as sys.executable, so subprocesses, multiprocessing and pip see the same environment. It fits when
 * X.Y is the same, whatever the patch level. PYTHON* variables and -X work as for `python`, since the interpreter parses a command line of its
 * own ("python -X ... -c pass") that we make up. */
#include "py/py.h"

#include "py/embed.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#include "conf/conf.h"

#if !defined(PY_HOME) || !defined(PY_EXECUTABLE)
#error "the build names the Python it links: -DPY_HOME, -DPY_EXECUTABLE"
#endif

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)
#define X_Y         TEXT_OF(PY_MAJOR_VERSION) "." TEXT_OF(PY_MINOR_VERSION)
/* Folders of packages bear the t of a free-threaded Python; both kinds may have one of the same X.Y. */
#ifdef Py_GIL_DISABLED
#define X_Y_ABI   X_Y "t"
#define X_Y_OTHER X_Y
#else
#define X_Y_ABI   X_Y
#define X_Y_OTHER X_Y "t"
#endif

static bool
is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Does venv have packages of a Python, "3.14" or "3.14t"? */
static bool
has_packages(const char *venv, const char *x_y)
{
    char path[PATH_MAX];
    struct stat st;
    return snprintf(path, sizeof(path), "%s/lib/python%s", venv, x_y) < (int)sizeof(path) &&
           stat(path, &st) == 0;
}

/* The X.Y that pyvenv.cfg says, in out; empty where it says none. */
static int
venv_version(const char *venv, char *out, size_t size)
{
    char path[PATH_MAX], line[512];
    if (snprintf(path, sizeof(path), "%s/pyvenv.cfg", venv) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return -errno;
    out[0] = '\0';
    while (fgets(line, sizeof(line), f) != NULL) {
        /* venv writes "version = 3.11.7", virtualenv and uv "version_info = 3.11.7..." */
        char *value = strchr(line, '=');
        if (strncmp(line, "version", 7) != 0 || value == NULL)
            continue;
        value += 1 + strspn(value + 1, " \t");
        unsigned major, minor;
        if (sscanf(value, "%u.%u", &major, &minor) == 2) {
            snprintf(out, size, "%u.%u", major, minor);
            break;
        }
    }
    fclose(f);
    return 0;
}

/* Checks the environment and writes the path of its python. */
static int
venv_python(const char *venv, char *out, size_t size)
{
    char version[32] = "", ours[32];
    int err = venv_version(venv, version, sizeof(version));
    if (err < 0) {
        log_operator(
            "venv %s: %s; give the folder that holds pyvenv.cfg (VIRTUAL_ENV or --venv)", venv,
            err == -ENOENT ? "is no virtual environment, it has no pyvenv.cfg" : strerror(-err));
        return EXIT_CODE_SYSTEM;
    }
    snprintf(ours, sizeof(ours), "%d.%d", PY_MAJOR_VERSION, PY_MINOR_VERSION);
    if (version[0] != '\0' && strcmp(version, ours) != 0) {
        log_operator("venv %s is made for Python %s, but this ringcorn was built with Python %s; "
                     "build with make PYTHON=%s/bin/python or make the environment with python%s",
                     venv, version, ours, venv, ours);
        return EXIT_CODE_USAGE;
    }
    /* X.Y alone is in pyvenv.cfg. */
    if (has_packages(venv, X_Y_OTHER) && !has_packages(venv, X_Y_ABI)) {
        log_operator("venv %s is made for Python " X_Y_OTHER
                     ", but this ringcorn was built with Python " X_Y_ABI "; build "
                     "with make PYTHON=%s/bin/python or make the environment with python" X_Y_ABI,
                     venv, venv);
        return EXIT_CODE_USAGE;
    }
    static const char *const names[] = { "python", "python3" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int n = snprintf(out, size, "%s/bin/%s", venv, names[i]);
        errno = 0;
        if (n < (int)size && is_file(out))
            return 0;
        if (errno == EACCES) {
            log_operator(
                "venv %s: no permission to read %s, or what it leads to, as the user that serves; "
                "give it, or make the environment from a Python that everybody may read",
                venv, out);
            return EXIT_CODE_SYSTEM;
        }
    }
    log_operator("venv %s: has no bin/python; make it again with python%s -m venv", venv, ours);
    return EXIT_CODE_SYSTEM;
}

/* The folder of the ringcorn package: beside the program in a build, under lib/ when installed by make, and where pip has put it: in an
 * environment, in Debian's own Python, below --target. */
static int
package_dir(const char *exe, char *out, size_t size)
{
    static const char *const places[] = { "python", "../lib/ringcorn/python",
                                          "../lib/python" X_Y_ABI "/site-packages",
                                          "../lib/python" X_Y_ABI "/dist-packages", ".." };
    const char *slash = strrchr(exe, '/');
    int dir = slash == NULL ? 0 : (int)(slash - exe);
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char probe[PATH_MAX];
        if (snprintf(out, size, "%.*s/%s", dir, exe, places[i]) >= (int)size ||
            snprintf(probe, sizeof(probe), "%s/ringcorn/__init__.py", out) >= (int)sizeof(probe))
            continue;
        if (is_file(probe))
            return 0;
    }
    log_operator("the Python package of ringcorn is missing: looked beside %s and in ../lib; run "
                 "make, make install or pip install again",
                 exe);
    return EXIT_CODE_SYSTEM;
}

static int
failed(PyStatus status)
{
    log_operator("Python does not start: %s%s%s", status.func ? status.func : "",
                 status.func ? ": " : "", status.err_msg ? status.err_msg : "unknown error");
    return EXIT_CODE_SYSTEM;
}

/* One PyConfig string; returns whether it went well. */
static bool
put(PyConfig *config, wchar_t **field, const char *value, PyStatus *status)
{
    *status = PyConfig_SetBytesString(config, field, value);
    return !PyStatus_Exception(*status);
}

static bool
names_utf8(const struct embed_options *o)
{
    for (size_t i = 0; i < o->python_options_n; i++) {
        const char *option = o->python_options[i];
        if (strncmp(option, "utf8", 4) == 0 && (option[4] == '\0' || option[4] == '='))
            return true;
    }
    return false;
}

static int
initialize(const struct embed_options *o, const char *python)
{
    /* python -X a -X b -c pass */
    size_t n = 0;
    MEM_OWNED char **argv = calloc(2 * o->python_options_n + 4, sizeof(*argv));
    if (argv == NULL)
        return EXIT_CODE_SYSTEM;
    argv[n++] = (char *)python;
    for (size_t i = 0; i < o->python_options_n; i++) {
        argv[n++] = (char *)"-X";
        argv[n++] = o->python_options[i];
    }
    argv[n++] = (char *)"-c";
    argv[n++] = (char *)"pass";

    PyPreConfig pre;
    PyPreConfig_InitPythonConfig(&pre);
    /* UTF-8 whatever the locale, as Python 3.15 will do. What is set here would win over the user's own word. */
    if (getenv("PYTHONUTF8") == NULL && !names_utf8(o))
        pre.utf8_mode = 1;
    PyStatus status = Py_PreInitializeFromBytesArgs(&pre, (Py_ssize_t)n, argv);
    if (PyStatus_Exception(status))
        return failed(status);

    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0; /* signals are the worker's */
    config.buffered_stdio = 0;          /* print() and logging are seen at once */
    config.faulthandler = 1;            /* a crash in C code shows the Python stack */
#ifdef Py_GIL_DISABLED
    /* py.h, "Free-threaded Python"; what the user says himself comes before it */
    config.enable_gil = 1;
#endif
    status = PyConfig_SetBytesArgv(&config, (Py_ssize_t)n, argv);
    bool is_ok = !PyStatus_Exception(status) &&
                 put(&config, &config.program_name, python, &status) &&
                 put(&config, &config.executable, python, &status) &&
                 (getenv("PYTHONHOME") != NULL || put(&config, &config.home, PY_HOME, &status));
    if (is_ok)
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        return failed(status);
    if (!py_has_gil()) {
        log_operator("PYTHON_GIL=0 or -X gil=0: Ringcorn relies on the GIL so far; leave it out, "
                     "and this free-threaded Python "
                     "runs with the GIL");
        return EXIT_CODE_USAGE;
    }
    return 0;
}

#if PY_VERSION_HEX >= 0x030d0000
/* Py_RunMain() says by these that its thread is the interpreter's main one, and others find it by that: `python -m asyncio ps` starts there.
 * Exported for CPython's own modules; where a build has them not, nothing but that is lost. */
extern int _PyInterpreterState_SetRunningMain(PyInterpreterState *interp) __attribute__((weak));
extern void _PyInterpreterState_SetNotRunningMain(PyInterpreterState *interp) __attribute__((weak));
#endif

static void
set_running(bool is_running)
{
#if PY_VERSION_HEX >= 0x030d0000
    if (is_running && _PyInterpreterState_SetRunningMain != NULL &&
        _PyInterpreterState_SetRunningMain(PyInterpreterState_Get()) < 0)
        PyErr_Clear();
    if (!is_running && _PyInterpreterState_SetNotRunningMain != NULL)
        _PyInterpreterState_SetNotRunningMain(PyInterpreterState_Get());
#else
    (void)is_running;
#endif
}

/* sys.path: app_dir, python_path, PYTHONPATH and the rest as Python made it, our package last. sys.argv: ours. */
static int
set_paths(const struct embed_options *o, const char *package)
{
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    if (path == NULL || !PyList_Check(path))
        return -1;
    Py_ssize_t at = 0;
    for (size_t i = 0; i <= o->python_path_n; i++) {
        const char *dir = i == 0 ? o->app_dir : o->python_path[i - 1];
        PY_OWNED PyObject *text = PyUnicode_DecodeFSDefault(dir);
        if (text == NULL || PyList_Insert(path, at++, text) < 0)
            return -1;
    }
    PY_OWNED PyObject *ours = PyUnicode_DecodeFSDefault(package);
    int is_there = ours == NULL ? -1 : PySequence_Contains(path, ours);
    if (is_there < 0 || (is_there == 0 && PyList_Append(path, ours) < 0))
        return -1;
    static const char *const names[] = { "argv", "orig_argv" };
    for (size_t k = 0; k < ARRAY_LEN(names); k++) {
        PY_OWNED PyObject *argv = PyList_New(o->argc);
        if (argv == NULL)
            return -1;
        for (int i = 0; i < o->argc; i++) {
            PyObject *text = PyUnicode_DecodeFSDefault(o->argv[i]);
            if (text == NULL)
                return -1;
            PyList_SET_ITEM(argv, i, text);
        }
        if (PySys_SetObject(names[k], argv) < 0)
            return -1;
    }
    return 0;
}

int
embed_start(const struct embed_options *o)
{
    char python[PATH_MAX], package[PATH_MAX];
    snprintf(python, sizeof(python), "%s", PY_EXECUTABLE);
    int err = package_dir(o->exe, package, sizeof(package));
    if (err == 0 && o->venv != NULL)
        err = venv_python(o->venv, python, sizeof(python));
    if (err == 0)
        err = initialize(o, python);
    if (err != 0)
        return err;
    set_running(true);
    if (set_paths(o, package) < 0) {
        PyErr_Print();
        log_operator("Python started, but its path could not be set");
        return EXIT_CODE_SYSTEM;
    }
    return 0;
}

int
embed_stop(void)
{
    set_running(false);
    return Py_FinalizeEx();
}

void
embed_version(FILE *out)
{
    fprintf(out, "python %s (built with %s)\n", Py_GetVersion(), PY_VERSION);
#ifdef Py_GIL_DISABLED
    fputs("python-gil on: Ringcorn relies on it so far, also on this free-threaded Python\n", out);
#endif
    fprintf(out, "python-home %s\n", PY_HOME);
}
