/* Files and maps. A sala_out_file is listed in a fixed table, so that a signal handler can remove what is unfinished:
 * the table is only touched with atomic exchanges. */
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int sala_os_map(sala_map *out, const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int rc = 0;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        rc = errno;
    } else if (!S_ISREG(st.st_mode)) {
        rc = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    } else if (st.st_size == 0) {
        *out = (sala_map){0};
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = errno;
        else
            *out = (sala_map){.data = p, .bytes = (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void sala_os_unmap(sala_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (sala_map){0};
}

static void advise(const void *data, size_t bytes, int advice)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, advice);
}

void sala_os_map_will_need(const void *data, size_t bytes)
{
    advise(data, bytes, MADV_WILLNEED);
}

void sala_os_map_drop(const void *data, size_t bytes)
{
    advise(data, bytes, MADV_DONTNEED);
}

int sala_os_read_file(uint8_t **out, size_t *bytes, const char *path, size_t limit)
{
    const bool is_stdin = strcmp(path, "-") == 0;
    const int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int rc = 0;
    uint8_t *data = NULL;
    size_t len = 0, cap = 0;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        cap = (size_t)st.st_size + 1; /* one read, and room for the NUL */
    if (cap == 0 || (limit && cap > limit + 1))
        cap = 65536;
    data = malloc(cap);
    if (!data)
        rc = ENOMEM;
    while (rc == 0) {
        if (len + 1 >= cap) {
            uint8_t *more = realloc(data, cap + cap / 2 + 4096);
            if (!more) {
                rc = ENOMEM;
                break;
            }
            data = more;
            cap += cap / 2 + 4096;
        }
        const ssize_t n = read(fd, data + len, cap - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = errno;
        if (n <= 0)
            break;
        len += (size_t)n;
        if (limit && len > limit)
            rc = EFBIG;
    }
    if (!is_stdin)
        close(fd);
    if (rc) {
        free(data);
        return rc;
    }
    data[len] = 0;
    *out = data;
    *bytes = len;
    return 0;
}

/* ---- output files ---- */

enum { OUT_BUFFER = 1 << 18, OUT_MAX_OPEN = 32 };

struct sala_out_file {
    int fd, error, slot;
    char *path, *temp;
    uint64_t offset; /* end of what was appended, buffer included */
    size_t buffered;
    uint8_t buffer[OUT_BUFFER];
};

static _Atomic(char *) open_temps[OUT_MAX_OPEN];

static int write_all(int fd, const uint8_t *data, size_t bytes, uint64_t offset)
{
    while (bytes) {
        const ssize_t n = pwrite(fd, data, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            return ENOSPC;
        data += n;
        bytes -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int sala_os_out_open(sala_out_file **out, const char *path)
{
    /* The rename at the end would put a plain file in the place of a device, pipe or socket. */
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    sala_out_file *f = calloc(1, sizeof *f);
    const size_t room = strlen(path) + 32;
    if (!f)
        return ENOMEM;
    f->fd = -1;
    f->slot = -1;
    f->path = strdup(path);
    f->temp = malloc(room);
    if (!f->path || !f->temp) {
        sala_os_out_abort(f);
        return ENOMEM;
    }
    snprintf(f->temp, room, "%s.tmp-%ld", path, (long)getpid());
    f->fd = open(f->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        const int rc = errno;
        free(f->temp);
        f->temp = NULL;
        sala_os_out_abort(f);
        return rc;
    }
    for (int i = 0; i < OUT_MAX_OPEN; i++) {
        char *empty = NULL;
        if (atomic_compare_exchange_strong(&open_temps[i], &empty, f->temp)) {
            f->slot = i;
            break;
        }
    }
    *out = f;
    return 0;
}

static void flush_buffer(sala_out_file *f)
{
    if (!f->error && f->buffered)
        f->error = write_all(f->fd, f->buffer, f->buffered, f->offset - f->buffered);
    f->buffered = 0;
}

int sala_os_out_write(sala_out_file *f, const void *data, size_t bytes)
{
    if (bytes >= OUT_BUFFER) {
        flush_buffer(f);
        if (!f->error)
            f->error = write_all(f->fd, data, bytes, f->offset);
    } else {
        if (f->buffered + bytes > OUT_BUFFER)
            flush_buffer(f);
        if (bytes)
            memcpy(f->buffer + f->buffered, data, bytes);
        f->buffered += bytes;
    }
    f->offset += bytes;
    return f->error;
}

int sala_os_out_write_at(sala_out_file *f, uint64_t offset, const void *data, size_t bytes)
{
    flush_buffer(f);
    if (!f->error)
        f->error = write_all(f->fd, data, bytes, offset);
    return f->error;
}

uint64_t sala_os_out_tell(const sala_out_file *f)
{
    return f->offset;
}

static void forget(sala_out_file *f)
{
    if (f->slot >= 0)
        atomic_store(&open_temps[f->slot], NULL);
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f->temp);
    free(f);
}

int sala_os_out_commit(sala_out_file *f)
{
    flush_buffer(f);
    if (!f->error && fsync(f->fd) != 0 && errno != EINVAL) /* EINVAL: not a file that can be synced */
        f->error = errno;
    if (!f->error && rename(f->temp, f->path) != 0)
        f->error = errno;
    const int rc = f->error;
    if (rc) {
        sala_os_out_abort(f);
        return rc;
    }
    forget(f);
    return 0;
}

void sala_os_out_abort(sala_out_file *f)
{
    if (!f)
        return;
    if (f->temp)
        unlink(f->temp);
    forget(f);
}

void sala_os_out_abort_all(void)
{
    for (int i = 0; i < OUT_MAX_OPEN; i++) {
        const char *temp = atomic_exchange(&open_temps[i], NULL);
        if (temp)
            unlink(temp);
    }
}

/* ---- folders ---- */

bool sala_os_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool sala_os_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int64_t sala_os_file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (int64_t)st.st_size : -1;
}

int sala_os_make_dirs(const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return ENOMEM;
    int rc = 0;
    for (char *p = copy + (copy[0] == '/');; p++) {
        if (*p && *p != '/')
            continue;
        const char was = *p;
        *p = 0;
        if (mkdir(copy, 0777) != 0 && !(errno == EEXIST && sala_os_is_dir(copy))) {
            rc = errno;
            break;
        }
        *p = was;
        if (!was)
            break;
    }
    free(copy);
    return rc;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int sala_os_list_dir(const char *path, bool (*fn)(void *user, const char *name), void *user)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno;
    char **names = NULL;
    size_t n = 0, cap = 0;
    int rc = 0;
    const struct dirent *e;
    while ((e = readdir(dir))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (n == cap) {
            cap = cap ? 2 * cap : 32;
            char **more = realloc(names, cap * sizeof *names);
            if (!more) {
                rc = ENOMEM;
                break;
            }
            names = more;
        }
        names[n] = strdup(e->d_name);
        if (!names[n]) {
            rc = ENOMEM;
            break;
        }
        n++;
    }
    closedir(dir);
    if (n)
        qsort(names, n, sizeof *names, compare_names);
    bool go_on = rc == 0;
    for (size_t i = 0; i < n; i++) {
        if (go_on)
            go_on = fn(user, names[i]);
        free(names[i]);
    }
    free(names);
    return rc;
}
