/* tls_files.c: what the files of certificates and keys hold, read by whoever may read them (the
 * master), and handed to those who may not any more (workers that run, as a sealed memfd). Keys are
 * decrypted here. Leaves to tls_set.c whether what was read goes together. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "base/base.h"
#include "net/tls_private.h"

enum {
    FILE_BYTES_MAX = 4 * 1024 * 1024, /* revocation lists can be long */
    PARTS_MAX = 1024,
    PASSWORD_MAX = 1024,
};

/* In front of each part in a memfd. */
struct packed {
    uint32_t kind, index;
    uint64_t n;
};

static void
wipe(void *p, size_t n)
{
    if (p != NULL)
        OPENSSL_cleanse(p, n);
    free(p);
}

void
tls_files_free(struct tls_files *files)
{
    for (size_t i = 0; i < files->n; i++)
        wipe(files->v[i].p, files->v[i].n);
    free(files->v);
    *files = (struct tls_files){ 0 };
}

/* p is the files' from here on, also on failure. Returns 0 or -ENOMEM. */
static int
part_add(struct tls_files *files, enum tls_part_kind kind, unsigned index, void *p, size_t n)
{
    struct tls_part *v = reallocarray(files->v, files->n + 1, sizeof(*v));
    if (v == NULL) {
        wipe(p, n);
        return -ENOMEM;
    }
    files->v = v;
    v[files->n++] = (struct tls_part){ .kind = kind, .index = index, .p = p, .n = n };
    return 0;
}

/* Returns 0 with *out new (malloc), or -errno. Not grown piece by piece: copies of a key would stay
 * behind. */
static int
slurp(const char *path, unsigned char **out, size_t *n)
{
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (st.st_size > FILE_BYTES_MAX)
        return -EFBIG;
    size_t size = (size_t)st.st_size, got = 0;
    unsigned char *p = malloc(size + 1);
    if (p == NULL)
        return -ENOMEM;
    while (got < size) {
        ssize_t k = read(fd, p + got, size - got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            int err = errno;
            wipe(p, size);
            return -err;
        }
        if (k == 0)
            break;
        got += (size_t)k;
    }
    p[got] = '\0';
    *out = p;
    *n = got;
    return 0;
}

static int
slurp_or_say(const char *key, const char *path, tls_say_fn say, unsigned char **out, size_t *n)
{
    int err = slurp(path, out, n);
    if (err == -EACCES)
        say("%s: cannot read %s: no permission; start as a user who may read it (workers become "
            "`user` afterwards)",
            key, path);
    else if (err == -ENOENT)
        say("%s: there is no file %s; correct the path, or have the certificate made first", key,
            path);
    else if (err < 0)
        say("%s: cannot read %s: %s", key, path,
            err == -EINVAL ? "it is no regular file" : strerror(-err));
    return err;
}

/* --- keys --------------------------------------------------------------------------------------- */

struct passwords {
    char *text; /* lines; NULL = there is no file */
    size_t n;
    const char *line; /* the one that is tried; NULL = none is left */
    bool was_asked;
};

/* pem_password_cb. */
static int
password_give(char *to, int room, int is_writing, void *arg)
{
    struct passwords *pw = arg;
    (void)is_writing;
    pw->was_asked = true;
    if (pw->line == NULL)
        return -1;
    size_t n = strcspn(pw->line, "\r\n");
    if (n > (size_t)room)
        return -1;
    memcpy(to, pw->line, n);
    return (int)n;
}

static const char *
next_line(const char *line)
{
    line += strcspn(line, "\n");
    return *line == '\n' && line[1] != '\0' ? line + 1 : NULL;
}

/* The private key in a PEM text, or NULL. */
static EVP_PKEY *
key_parse(const unsigned char *text, size_t n, struct passwords *pw)
{
    EVP_PKEY *key = NULL;
    pw->line = pw->text;
    do {
        BIO *bio = BIO_new_mem_buf(text, (int)n);
        pw->was_asked = false;
        key = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, password_give, pw);
        BIO_free(bio);
        pw->line = pw->line == NULL ? NULL : next_line(pw->line);
    } while (key == NULL && pw->was_asked && pw->line != NULL);
    ERR_clear_error(); /* failed attempts */
    return key;
}

static int
key_add(struct tls_files *files, unsigned index, const char *path, const unsigned char *text,
        size_t n, struct passwords *pw, tls_say_fn say)
{
    EVP_PKEY *key = key_parse(text, n, pw);
    if (key == NULL && pw->was_asked && pw->text == NULL)
        say("tls.key: the key in %s is encrypted; name a file with its password by "
            "tls.key_password_file",
            path);
    else if (key == NULL && pw->was_asked)
        say("tls.key: no password in tls.key_password_file opens %s; write the right one there, on "
            "a line of its own",
            path);
    else if (key == NULL)
        say("tls.key: there is no private key in PEM in %s (-----BEGIN PRIVATE KEY-----)", path);
    if (key == NULL)
        return -1;
    unsigned char *der = NULL, *copy = NULL;
    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);
    int der_n = info == NULL ? -1 : i2d_PKCS8_PRIV_KEY_INFO(info, &der);
    EVP_PKEY_free(key);
    PKCS8_PRIV_KEY_INFO_free(info);
    if (der_n > 0 && (copy = malloc((size_t)der_n)) != NULL)
        memcpy(copy, der, (size_t)der_n);
    OPENSSL_clear_free(der, der_n > 0 ? (size_t)der_n : 0);
    if (copy == NULL || part_add(files, TLS_KEY, index, copy, (size_t)der_n) < 0) {
        say("tls.key: %s: no memory", path);
        return -1;
    }
    return 0;
}

/* --- all ----------------------------------------------------------------------------------------- */

static int
read_list(struct tls_files *files, enum tls_part_kind kind, const char *key,
          const struct conf_strings *paths, tls_say_fn say)
{
    int result = 0;
    for (size_t i = 0; i < paths->n; i++) {
        unsigned char *p;
        size_t n;
        if (slurp_or_say(key, paths->v[i], say, &p, &n) < 0)
            result = -1;
        else if (part_add(files, kind, (unsigned)i, p, n) < 0) {
            say("%s: no memory", key);
            result = -1;
        }
    }
    return result;
}

static int
read_one(struct tls_files *files, enum tls_part_kind kind, const char *key, char *path,
         tls_say_fn say)
{
    if (path == NULL)
        return 0;
    return read_list(files, kind, key, &(struct conf_strings){ .v = &path, .n = 1 }, say);
}

static int
read_keys(struct tls_files *files, const struct conf *conf, tls_say_fn say)
{
    struct passwords pw = { 0 };
    unsigned char *text;
    if (conf->tls_key_password_file != NULL) {
        if (slurp_or_say("tls.key_password_file", conf->tls_key_password_file, say, &text, &pw.n) <
            0)
            return -1;
        pw.text = (char *)text;
    }
    const struct conf_strings *paths = conf->tls_key.n > 0 ? &conf->tls_key : &conf->tls_cert;
    int result = 0;
    for (size_t i = 0; i < paths->n; i++) {
        size_t n;
        if (slurp_or_say("tls.key", paths->v[i], say, &text, &n) < 0) {
            result = -1;
            continue;
        }
        if (key_add(files, (unsigned)i, paths->v[i], text, n, &pw, say) < 0)
            result = -1;
        wipe(text, n);
    }
    wipe(pw.text, pw.n);
    return result;
}

int
tls_files_read(const struct conf *conf, tls_say_fn say, struct tls_files *out)
{
    struct tls_files files = { 0 };
    int failed = read_list(&files, TLS_CERT, "tls.cert", &conf->tls_cert, say);
    failed |= read_keys(&files, conf, say);
    failed |= read_list(&files, TLS_OCSP, "tls.ocsp", &conf->tls_ocsp, say);
    failed |= read_one(&files, TLS_CA, "tls.client_ca", conf->tls_client_ca, say);
    failed |= read_one(&files, TLS_CRL, "tls.crl", conf->tls_crl, say);
    if (failed) {
        tls_files_free(&files);
        return -1;
    }
    *out = files;
    return 0;
}

/* --- to a worker --------------------------------------------------------------------------------- */

static int
write_all(int fd, const void *from, size_t n)
{
    const char *p = from;
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno != EINTR)
            return -errno;
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        }
    }
    return 0;
}

int
tls_files_pack(const struct tls_files *files)
{
    FD_OWNED int fd = memfd_create("ringcorn-tls", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    for (size_t i = 0; i < files->n; i++) {
        const struct tls_part *part = &files->v[i];
        struct packed head = { .kind = part->kind, .index = part->index, .n = part->n };
        int err = write_all(fd, &head, sizeof(head));
        if (err == 0)
            err = write_all(fd, part->p, part->n);
        if (err < 0)
            return err;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return -errno;
    return fd_take(&fd);
}

int
tls_files_unpack(int fd, struct tls_files *out)
{
    struct tls_files files = { 0 };
    off_t at = 0;
    for (;;) {
        struct packed head;
        ssize_t k = pread(fd, &head, sizeof(head), at);
        if (k == 0)
            break;
        int err = k < 0 ? -errno : 0;
        if (k > 0 && (k != sizeof(head) || head.n > FILE_BYTES_MAX || files.n >= PARTS_MAX))
            err = -EBADMSG;
        unsigned char *p = err < 0 ? NULL : malloc(head.n + 1);
        if (p != NULL) {
            at += k;
            if (pread(fd, p, head.n, at) == (ssize_t)head.n) {
                at += (off_t)head.n;
                p[head.n] = '\0';
                err = part_add(&files, (enum tls_part_kind)head.kind, head.index, p, head.n);
            } else {
                wipe(p, head.n);
                err = -EBADMSG;
            }
        } else if (err == 0) {
            err = -ENOMEM;
        }
        if (err < 0) {
            tls_files_free(&files);
            return err;
        }
    }
    *out = files;
    return 0;
}

/* --- have they changed? --------------------------------------------------------------------------- */

static uint64_t
stamp_of(uint64_t seed, const char *path)
{
    struct stat st;
    struct {
        uint64_t dev, ino, size, s, ns;
    } seen = { 0 };
    if (path == NULL)
        return seed;
    if (stat(path, &st) == 0) {
        seen.dev = st.st_dev;
        seen.ino = st.st_ino;
        seen.size = (uint64_t)st.st_size;
        seen.s = (uint64_t)st.st_mtim.tv_sec;
        seen.ns = (uint64_t)st.st_mtim.tv_nsec;
    }
    return slice_hash(slice_hash(seed, slice_of(path)),
                      (struct slice){ (const char *)&seen, sizeof(seen) });
}

uint64_t
tls_files_stamp(const struct conf *conf)
{
    const struct conf_strings *lists[] = { &conf->tls_cert, &conf->tls_key, &conf->tls_ocsp };
    uint64_t stamp = 0;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        for (size_t j = 0; j < lists[i]->n; j++)
            stamp = stamp_of(stamp, lists[i]->v[j]);
    stamp = stamp_of(stamp, conf->tls_key_password_file);
    stamp = stamp_of(stamp, conf->tls_client_ca);
    return stamp_of(stamp, conf->tls_crl);
}
