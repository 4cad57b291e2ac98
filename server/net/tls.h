/* tls.h: TLS 1.2 and 1.3 by OpenSSL, between connections and io: above it there are only plain
 * bytes.
 *
 *   tls.c          one connection: handshake, records in and out, the end
 *   tls_set.c      what all connections share: certificates, which is for whom, who is let in
 *   tls_files.c    reading certificates and keys, and handing them to running workers
 *   tls_tickets.c  the keys of session tickets, which all workers share
 *   tls_kdf.c      the secrets of TLS 1.3, derived faster than the library does
 *   tls_memory.c   blocks of the library's, kept from one handshake for the next
 *   tls_about.c    what the application may know of a connection
 *
 * The master reads the files, with the rights it was started with, and makes a struct tls_set of
 * them, which is how it finds out whether they are right. Workers are forked with it. When files
 * change, the master reads and tries them again and sends what they hold to its workers as a sealed
 * memfd; each makes a set of its own for new handshakes. Connections keep the certificate that they
 * began with.
 *
 * Nothing here logs what a key or a password file holds. Everything runs on the master's one
 * thread, or on the loop's. */
#ifndef RINGCORN_NET_TLS_H
#define RINGCORN_NET_TLS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "conf/conf.h"

/* --- files (tls_files.c) ---------------------------------------------------------------------- */

enum tls_part_kind { TLS_CERT, TLS_KEY, TLS_OCSP, TLS_CA, TLS_CRL };

struct tls_part {
    enum tls_part_kind kind;
    unsigned index; /* in the list of the configuration */
    unsigned char *p;
    size_t n;
};

/* What the files of a configuration hold; keys are decrypted (DER, PKCS#8). Embedded by whoever
 * reads them. */
struct tls_files {
    struct tls_part *v;
    size_t n;
};

/* Says one line about a fault: log_operator() at start, log_error() later. */
typedef void (*tls_say_fn)(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tls_say_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Reads them all. Returns 0 with *out new, or -1 with every fault said. */
int tls_files_read(const struct conf *conf, tls_say_fn say, struct tls_files *out);
/* Wipes and frees. */
void tls_files_free(struct tls_files *files);

/* As a sealed memfd, new, and back. Return the descriptor, or 0; or -errno. */
int tls_files_pack(const struct tls_files *files);
int tls_files_unpack(int fd, struct tls_files *out);

/* Changes when a file of the configuration does: its name, its inode, its size or its time. */
uint64_t tls_files_stamp(const struct conf *conf);

/* --- session tickets (tls_tickets.c) ---------------------------------------------------------- */

/* Shared memory: made by the master before it forks. */
struct tls_tickets;

struct tls_tickets *tls_tickets_new(void); /* NULL: no memory; a key is in it */
/* The master: another key is for new tickets; those under the last one are still taken. Returns 0,
 * or -EIO where there is no randomness: the old key stays. */
int tls_tickets_rotate(struct tls_tickets *t);
/* A worker: from here on it only reads. */
void tls_tickets_protect(struct tls_tickets *t);
void tls_tickets_free(struct tls_tickets *t);
/* The keys as bytes, for another master that is to open the same tickets, and back. */
enum { TLS_TICKETS_SIZE = 160 };
void tls_tickets_copy(const struct tls_tickets *t, unsigned char out[TLS_TICKETS_SIZE]);
void tls_tickets_restore(struct tls_tickets *t, const unsigned char in[TLS_TICKETS_SIZE]);

/* --- a set (tls_set.c) ------------------------------------------------------------------------ */

struct tls_set;

/* Makes one of files; tickets may be NULL where they are off, and outlive the set. Faults and
 * warnings are said (warnings by log_warning(), where warns is set). NULL: it cannot be used. */
struct tls_set *tls_set_new(const struct conf *conf, const struct tls_files *files,
                            struct tls_tickets *tickets, tls_say_fn say, bool warns);
/* Connections that were begun with it go on. NULL is allowed. */
void tls_set_free(struct tls_set *set);

/* Both at once: reads and makes. On success *out is new, and *files too where files is not NULL.
 * Returns 0 or -1, said. */
int tls_load(const struct conf *conf, struct tls_tickets *tickets, tls_say_fn say,
             struct tls_set **out, struct tls_files *files);

/* Until when its certificates are good, in seconds of Unix time: how many of them end before before_s, and of those the one that ends
 * first: its place in tls.cert, and when. */
size_t tls_set_ending(const struct tls_set *set, int64_t before_s, size_t *index, int64_t *ends_s);

/* --- about a connection (tls_about.c) ---------------------------------------------------------- */

/* What the ASGI "tls" extension tells. Shared by whoever took it; never changed. */
struct tls_about {
    atomic_uint refs;
    unsigned version;      /* 0x0303, 0x0304; 0 = not known */
    unsigned cipher_suite; /* as IANA numbers them; 0 = not known */
    char *server_cert;     /* PEM; NULL = not known */
    char **client_chain;   /* PEM, the client's own first */
    size_t client_chain_n;
    char *client_name;  /* its subject as RFC 4514 writes it, UTF-8; NULL = no certificate */
    char *client_error; /* why it is not right; NULL = it is, or there is none */
};

/* Any thread. NULL is allowed. */
struct tls_about *tls_about_take(struct tls_about *about);
void tls_about_give(struct tls_about *about);

/* Before anything else of the library is called: lets workers keep its blocks. Harmless when called again, or too late. */
void tls_memory_prepare(void);

/* The version of the library, for --version. */
const char *tls_library(void);

#endif
