/* types.c: the types and constants of transport/, one set a module.
 *
 * Runs on:  any thread with the GIL. */
#include "transport/transport.h"

int
transport_add_types(PyObject *module)
{
    (void)module;
    return 0;
}
