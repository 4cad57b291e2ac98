/* file.c: system calls on files, for the threads that make them where the ring does not.
 *
 * Threads:  any; nothing here knows an io. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io/backend.h"

static ssize_t
make_call(struct io_file *f)
{
    switch (f->what) {
    case IO_FILE_OPEN:
        return openat(f->dir_fd, f->path, f->flags, f->mode);
    case IO_FILE_READ:
        return f->at < 0 ? read(f->fd, f->buf, f->n) : pread(f->fd, f->buf, f->n, f->at);
    case IO_FILE_WRITE:
        return f->at < 0 ? write(f->fd, f->buf, f->n) : pwrite(f->fd, f->buf, f->n, f->at);
    case IO_FILE_SYNC:
        return f->flags & IO_FILE_DATASYNC ? fdatasync(f->fd) : fsync(f->fd);
    case IO_FILE_STAT:
        return statx(f->dir_fd, f->path, f->flags, STATX_BASIC_STATS, f->buf);
    case IO_FILE_CLOSE:
        return close(f->fd);
    case IO_FILE_TRUNCATE:
        return ftruncate(f->fd, f->at);
    case IO_FILE_ALLOCATE:
        return fallocate(f->fd, f->flags, f->at, f->size);
    case IO_FILE_UNLINK:
        return unlinkat(f->dir_fd, f->path, f->flags);
    case IO_FILE_RENAME:
        return renameat2(f->dir_fd, f->path, f->dir_fd2, f->path2, (unsigned)f->flags);
    case IO_FILE_MKDIR:
        return mkdirat(f->dir_fd, f->path, f->mode);
    case IO_FILE_SYMLINK:
        return symlinkat(f->path, f->dir_fd2, f->path2);
    case IO_FILE_LINK:
        return linkat(f->dir_fd, f->path, f->dir_fd2, f->path2, f->flags);
    case IO_FILE_CALL:
        break;
    }
    errno = EINVAL;
    return -1;
}

int
io_file_run(struct io_file *f)
{
    if (f->what == IO_FILE_CALL)
        return f->call(f);
    if (f->n > IO_SEND_MAX)
        f->n = IO_SEND_MAX;
    ssize_t res;
    do { /* after EINTR a descriptor is closed nonetheless (close(2)) */
        res = make_call(f);
    } while (res < 0 && errno == EINTR && f->what != IO_FILE_CLOSE);
    if (res < 0 && errno == EINTR)
        return 0;
    return res < 0 ? -errno : (int)res;
}

void
io_file_drop(struct io_op *op, int res)
{
    if (CONTAINER_OF(op, struct io_file, op)->what == IO_FILE_OPEN && res >= 0)
        close(res);
}
