// Calls below a folder that fail on demand, put in front of libc by LD_PRELOAD. BAD_DISK names the folder, BAD_DISK_ORDERS a file of
// lines like `sync 5 1`: a call, its errno, and how often (0: for as long as the file is there).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int ordered(const char *call) {
    const char *orders = getenv("BAD_DISK_ORDERS");
    FILE *f = orders ? fopen(orders, "r") : NULL;
    if (!f) return 0;
    char name[32];
    int error = 0, times = 0, found = 0;
    while (!found && fscanf(f, "%31s %d %d", name, &error, &times) == 3) found = !strcmp(name, call);
    fclose(f);
    if (!found) return 0;
    if (times > 0) {
        static int done;
        if (__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST) >= times) {
            unlink(orders);
            __atomic_store_n(&done, 0, __ATOMIC_SEQ_CST);
        }
    }
    return error;
}

static int below(const char *path) {
    const char *folder = getenv("BAD_DISK");
    return folder && path && !strncmp(path, folder, strlen(folder));
}

static int fails(int fd, const char *call) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    if (!below(path)) return 0;
    int error = ordered(call);
    if (error) errno = error;
    return error;
}

#define NEXT(name, type) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *b, size_t n) {
    return fails(fd, "write") ? -1 : NEXT("write", ssize_t (*)(int, const void *, size_t))(fd, b, n);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    return fails(fd, "write") ? -1 : NEXT("writev", ssize_t (*)(int, const struct iovec *, int))(fd, v, n);
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at) {
    return fails(fd, "write") ? -1 : NEXT("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t))(fd, b, n, at);
}
int fdatasync(int fd) { return fails(fd, "sync") ? -1 : NEXT("fdatasync", int (*)(int))(fd); }
int fsync(int fd) { return fails(fd, "sync") ? -1 : NEXT("fsync", int (*)(int))(fd); }
int rename(const char *from, const char *to) {
    int error = below(to) ? ordered("rename") : 0;
    if (error) errno = error;
    return error ? -1 : NEXT("rename", int (*)(const char *, const char *))(from, to);
}
