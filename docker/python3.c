/* python3.c: `python3` of the image: the interpreter in libpython, which the server needs anyway. Debian's own program has a second copy of
 * it linked in, 6.8 MB. manage.py, virtual environments and multiprocessing run by this one. */
#include <Python.h>

int
main(int argc, char **argv)
{
    return Py_BytesMain(argc, argv);
}
