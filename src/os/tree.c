/* Directories that a run writes, and the names that it goes by. */
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

int sala_os_rename(const char *from, const char *to)
{
    return rename(from, to) == 0 ? 0 : errno;
}

int sala_os_sync_dir(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    /* Some file systems cannot sync a directory and need not. */
    const int rc = fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
    close(fd);
    return rc;
}

static int remove_at(int parent, const char *name, int depth)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return errno;
    if (depth == 0)
        return ELOOP;
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        const int rc = errno;
        close(fd);
        return rc;
    }
    int rc = 0;
    const struct dirent *e;
    while (rc == 0 && (e = readdir(dir)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = remove_at(fd, e->d_name, depth - 1);
    closedir(dir);
    if (rc == 0 && unlinkat(parent, name, AT_REMOVEDIR) != 0)
        rc = errno;
    return rc;
}

int sala_os_remove_tree(const char *path)
{
    return remove_at(AT_FDCWD, path, 16);
}

uint64_t sala_os_disk_free(const char *path)
{
    struct statvfs s;
    if (statvfs(path, &s) != 0)
        return UINT64_MAX;
    return (uint64_t)s.f_bavail * s.f_frsize;
}

void sala_os_host_name(char *dst, size_t bytes)
{
    if (gethostname(dst, bytes) != 0)
        snprintf(dst, bytes, "localhost");
    dst[bytes - 1] = 0;
}

int64_t sala_os_process_id(void)
{
    return getpid();
}

double sala_os_wall_seconds(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
