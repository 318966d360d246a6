/* Files that are changed in place under a lock.
 *
 * The lock is flock's: it belongs to the open file, so two opens in one process exclude each other too, it ends with
 * the process however that ends, and Linux lists its holder in /proc/locks, which it does not for locks of byte ranges
 * that belong to open files. A file may be unlinked or replaced between our open and our lock, so the name is looked up
 * again once the lock is held. */
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif
#include <unistd.h>

struct sala_store {
    int fd;
    bool created;
    char *path;
};

static sala_store_watch_fn *watch_fn;
static void *watch_user;

void sala_os_store_watch(sala_store_watch_fn *fn, void *user)
{
    watch_fn = fn;
    watch_user = user;
}

static int watched(sala_store_event event, uint64_t offset, const void *data, uint64_t bytes)
{
    return watch_fn ? watch_fn(watch_user, event, offset, data, bytes) : 0;
}

/* Who holds a lock on the file, as far as the system says; 0 if it does not. */
static int64_t lock_holder(const struct stat *st)
{
    int64_t holder = 0;
#ifdef __linux__
    FILE *locks = fopen("/proc/locks", "re");
    char line[256];
    while (locks && holder == 0 && fgets(line, sizeof line, locks)) {
        unsigned major_no, minor_no;
        int64_t pid;
        uint64_t inode;
        /* "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF" */
        if (sscanf(line, "%*s FLOCK %*s %*s %" SCNd64 " %x:%x:%" SCNu64, &pid, &major_no, &minor_no, &inode) == 4 &&
            inode == (uint64_t)st->st_ino && major_no == major(st->st_dev) && minor_no == minor(st->st_dev) && pid > 0)
            holder = pid;
    }
    if (locks)
        fclose(locks);
#else
    (void)st;
#endif
    return holder;
}

/* The name of a new file is safe only when its folder is written too. A file system that cannot do that has nothing
 * better to offer, so errors are left aside. */
static void sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    const int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

/* 0 and an open file, EAGAIN when the file was exchanged meanwhile and the caller should try again. */
static int open_and_lock(int *out, bool *created, const char *path, sala_store_access access, int64_t *holder)
{
    const int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (access == SALA_STORE_READ ? O_RDONLY : O_RDWR);
    struct stat st, named;
    *created = false;
    int fd = -1;
    if (stat(path, &named) == 0) {
        /* Devices and pipes are not even opened: that alone can have effects. */
        if (!S_ISREG(named.st_mode))
            return S_ISDIR(named.st_mode) ? EISDIR : EINVAL;
        fd = open(path, flags);
        if (fd < 0)
            return errno == ENOENT ? EAGAIN : errno;
    } else {
        if (errno != ENOENT || access != SALA_STORE_CREATE)
            return errno;
        fd = open(path, flags | O_CREAT | O_EXCL, 0666);
        if (fd < 0 && errno == EEXIST) /* someone else was quicker, or the name is a link to nothing */
            return lstat(path, &named) == 0 && S_ISLNK(named.st_mode) && stat(path, &named) != 0 ? ELOOP : EAGAIN;
        if (fd < 0)
            return errno;
        *created = true;
    }
    int rc = 0;
    if (fstat(fd, &st) != 0)
        rc = errno;
    else if (!S_ISREG(st.st_mode))
        rc = EINVAL;
    else if (flock(fd, (access == SALA_STORE_READ ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0)
        rc = errno == EWOULDBLOCK ? EBUSY : errno;
    else if (stat(path, &named) != 0 || named.st_ino != st.st_ino || named.st_dev != st.st_dev)
        rc = EAGAIN;
    if (rc == EBUSY)
        *holder = lock_holder(&st);
    if (rc)
        close(fd);
    else
        *out = fd;
    return rc;
}

int sala_os_store_open(sala_store **out, const char *path, sala_store_access access, int64_t *holder)
{
    *holder = 0;
    sala_store *s = calloc(1, sizeof *s);
    char *name = strdup(path);
    if (!s || !name) {
        free(s);
        free(name);
        return ENOMEM;
    }
    int rc = EAGAIN;
    for (int attempt = 0; attempt < 100 && rc == EAGAIN; attempt++)
        rc = open_and_lock(&s->fd, &s->created, path, access, holder);
    if (rc) {
        free(s);
        free(name);
        return rc;
    }
    s->path = name;
    if (s->created)
        sync_folder_of(path);
    *out = s;
    return 0;
}

void sala_os_store_close(sala_store *s)
{
    if (!s)
        return;
    close(s->fd);
    free(s->path);
    free(s);
}

bool sala_os_store_is(const sala_store *s, const char *path)
{
    struct stat st, named;
    return fstat(s->fd, &st) == 0 && stat(path, &named) == 0 && st.st_ino == named.st_ino && st.st_dev == named.st_dev;
}

void sala_os_store_remove(sala_store *s)
{
    if (sala_os_store_is(s, s->path))
        (void)unlink(s->path);
    sala_os_store_close(s);
}

bool sala_os_store_created(const sala_store *s)
{
    return s->created;
}

int sala_os_store_size(const sala_store *s, uint64_t *bytes)
{
    struct stat st;
    if (fstat(s->fd, &st) != 0)
        return errno;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

int sala_os_store_read(const sala_store *s, uint64_t offset, void *data, size_t bytes, size_t *got)
{
    size_t n_read = 0;
    while (n_read < bytes) {
        const ssize_t n = pread(s->fd, (uint8_t *)data + n_read, bytes - n_read, (off_t)(offset + n_read));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            break;
        n_read += (size_t)n;
    }
    *got = n_read;
    return 0;
}

int sala_os_store_write(sala_store *s, uint64_t offset, const void *data, size_t bytes)
{
    if (offset > INT64_MAX || bytes > (uint64_t)INT64_MAX - offset)
        return EFBIG;
    const int rc = watched(SALA_STORE_WRITE_EVENT, offset, data, bytes);
    if (rc)
        return rc;
    const uint8_t *from = data;
    while (bytes) {
        /* Linux writes at most 2 GiB less a page at once, others refuse more than INT_MAX. */
        const ssize_t n = pwrite(s->fd, from, bytes < (1u << 30) ? bytes : 1u << 30, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            return EIO;
        from += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

int sala_os_store_resize(sala_store *s, uint64_t bytes)
{
    if (bytes > INT64_MAX)
        return EFBIG;
    const int rc = watched(SALA_STORE_RESIZE_EVENT, bytes, NULL, 0);
    if (rc)
        return rc;
    while (ftruncate(s->fd, (off_t)bytes) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int sala_os_store_sync(sala_store *s)
{
    const int rc = watched(SALA_STORE_SYNC_EVENT, 0, NULL, 0);
    if (rc)
        return rc;
#ifdef __APPLE__
    /* fsync leaves data in the drive's cache there. */
    if (fcntl(s->fd, F_FULLFSYNC) == 0)
        return 0;
    return fsync(s->fd) == 0 ? 0 : errno;
#else
    while (fdatasync(s->fd) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
#endif
}

int sala_os_store_map(const sala_store *s, const uint8_t **out, uint64_t offset, uint64_t bytes)
{
    if (offset > INT64_MAX || bytes > (uint64_t)INT64_MAX - offset || bytes > SIZE_MAX)
        return ENOMEM;
    void *p = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, s->fd, (off_t)offset);
    if (p == MAP_FAILED)
        return errno;
    *out = p;
    return 0;
}

void sala_os_store_unmap(const uint8_t *data, uint64_t bytes)
{
    if (data)
        munmap((void *)(uintptr_t)data, (size_t)bytes);
}
