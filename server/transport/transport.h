/* transport.h: asyncio's transports in C: what runs once a chunk of bytes; what runs once a connection stays asyncio's Python.
 *
 *   types.c         the types and constants of this folder, one set a module       state.h  these
 *   stream.c        TCP and unix sockets: the transport object and its life       stream.h  what these files share
 *   stream_read.c   from the socket to the protocol                               stream_write.c  from write() to the socket
 *   tls.c           the life of a TLS connection, as a protocol of any transport   tls_private.h  what these files share
 *   tls_pipe.c      its bytes through _ssl, flow control                           tls_transport.c  as the application's transport
 *   tls_names.c     the names and objects of Python that it uses
 *   endpoint.c      what datagrams and pipes have in common: their life           datagram.c  UDP, and connected unix datagram sockets
 *   pipe_read.c     connect_read_pipe(), a subprocess's output                    pipe_write.c  connect_write_pipe(), its input
 *
 * Loop._make_socket_transport() and its like (python/ringcorn/loop.py) make them. A transport is a source of its loop (py/py.h): its io
 * operations complete without the GIL, and its run() is called with it.
 *
 * All with the GIL held and, but for finalisers, on the loop's thread, unless said otherwise. */
#ifndef RINGCORN_TRANSPORT_H
#define RINGCORN_TRANSPORT_H

#include "py/py.h"

/* Adds the types and functions of this folder to the module. 0, or -1 with an exception set. */
int transport_add_types(PyObject *module);

/* --- streams and what is built on them (stream.c, tls.c) ------------------------------------------------------- */

/* Is it a transport of stream.c? */
bool stream_check(PyObject *transport);

/* As transport.write(bytes). Steals bytes (exact bytes), also on failure. 0 or -1 with an exception set. May run Python. */
int stream_write(PyObject *transport, PyObject *bytes);

/* Is it a protocol that takes bytes by tls_received()? Its type is asked for once, by set_protocol(). */
bool tls_check(PyObject *protocol);

/* Bytes from the socket, instead of get_buffer() and buffer_updated(): borrowed for the call. 0, or -1 with an exception set. May run Python, and use the
 * transport. */
int tls_received(PyObject *protocol, const char *p, size_t n);

#endif
