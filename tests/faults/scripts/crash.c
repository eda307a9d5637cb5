/* A disk that fails at a chosen moment. LD_PRELOADed; counts the calls that change a file below CRASH_UNDER, and at the
   one that is asked for kills the process before it, or after half of it, or lets it fail. `torn` counts only the writes,
   since nothing else can be done by half.

   CRASH_UNDER=/folder  CRASH_AT=k  CRASH_MODE=kill|torn|<errno>   armed from the start (k counts from 1; 0: only count)
   CRASH_COUNT=/file                                               the number of calls so far, as text
   crash_arm(under, k, mode), crash_seen()                         the same from within, after a fork

   <errno> fails call k and, if CRASH_STAYS is set or crash_stays(1) was called, every one after it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = -1, TORN = -2 };

static char under[4096];
static long at, seen;
static int mode, stays;

static int mode_of(const char *text) {
    if (!text) return COUNT;
    if (!strcmp(text, "kill")) return KILL;
    if (!strcmp(text, "torn")) return TORN;
    return atoi(text);
}

void crash_arm(const char *folder, long k, const char *text) {
    snprintf(under, sizeof under, "%s", folder);
    at = k, seen = 0, mode = mode_of(text);
}

void crash_stays(int yes) { stays = yes; }

long crash_seen(void) { return seen; }

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("CRASH_UNDER"), *k = getenv("CRASH_AT");
    if (folder && *folder) crash_arm(folder, k ? atol(k) : 0, getenv("CRASH_MODE"));
    stays = getenv("CRASH_STAYS") != NULL;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("CRASH_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) fprintf(file, "%ld\n", seen), fclose(file);
}

static int inside(const char *path) { return path && under[0] && !strncmp(path, under, strlen(under)); }

static int inside_fd(int fd) {
    char link[64], path[4096];
    ssize_t n;
    if (!under[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return inside(path);
}

static int inside_at(int dirfd, const char *path) {
    return path[0] == '/' || dirfd == AT_FDCWD ? inside(path) : inside_fd(dirfd);
}

/* Whether this call is to fail with errno; does not return if it is where the process dies. `torn`: it can be halved. */
static int strike(int relevant, int torn) {
    if (!relevant || (mode == TORN && !torn)) return 0;
    seen++;
    if (at == 0 || mode == COUNT) return 0;
    if (seen == at && mode == TORN) return TORN;
    if (seen == at && mode == KILL) kill(getpid(), SIGKILL);
    if (mode > 0 && (seen == at || (stays && seen > at))) {
        errno = mode;
        return 1;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define GUARD(relevant, torn, half)                                                                                    \
    switch (strike(relevant, torn)) {                                                                                  \
    case 1: return -1;                                                                                                 \
    case TORN: (void)!(half); kill(getpid(), SIGKILL);                                                                 \
    }

ssize_t write(int fd, const void *data, size_t n) {
    GUARD(inside_fd(fd), 1, REAL(write)(fd, data, n / 2))
    return REAL(write)(fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t o) {
    GUARD(inside_fd(fd), 1, REAL(pwrite)(fd, data, n / 2, o))
    return REAL(pwrite)(fd, data, n, o);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t o) {
    GUARD(inside_fd(fd), 1, REAL(pwrite64)(fd, data, n / 2, o))
    return REAL(pwrite64)(fd, data, n, o);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    GUARD(inside_fd(fd), n > 1, REAL(writev)(fd, parts, n / 2))
    return REAL(writev)(fd, parts, n);
}
ssize_t sendfile(int to, int from, off_t *o, size_t n) {
    GUARD(inside_fd(to), 1, REAL(sendfile)(to, from, o, n / 2))
    return REAL(sendfile)(to, from, o, n);
}
ssize_t sendfile64(int to, int from, off64_t *o, size_t n) {
    GUARD(inside_fd(to), 1, REAL(sendfile64)(to, from, o, n / 2))
    return REAL(sendfile64)(to, from, o, n);
}
int ftruncate(int fd, off_t n) {
    GUARD(inside_fd(fd), 0, 0)
    return REAL(ftruncate)(fd, n);
}
int ftruncate64(int fd, off64_t n) {
    GUARD(inside_fd(fd), 0, 0)
    return REAL(ftruncate64)(fd, n);
}
int fsync(int fd) {
    GUARD(inside_fd(fd), 0, 0)
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    GUARD(inside_fd(fd), 0, 0)
    return REAL(fdatasync)(fd);
}
int rename(const char *from, const char *to) {
    GUARD(inside(to), 0, 0)
    return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    GUARD(inside_at(b, to), 0, 0)
    return REAL(renameat)(a, from, b, to);
}
int unlink(const char *path) {
    GUARD(inside(path), 0, 0)
    return REAL(unlink)(path);
}
int unlinkat(int fd, const char *path, int flags) {
    GUARD(inside_at(fd, path), 0, 0)
    return REAL(unlinkat)(fd, path, flags);
}
int rmdir(const char *path) {
    GUARD(inside(path), 0, 0)
    return REAL(rmdir)(path);
}
int mkdir(const char *path, mode_t m) {
    GUARD(inside(path), 0, 0)
    return REAL(mkdir)(path, m);
}

/* Opening changes something if it makes or empties a file. */
#define OPENING(name)                                                                                                  \
    int name(const char *path, int flags, ...) {                                                                       \
        mode_t m = 0;                                                                                                  \
        if (flags & O_CREAT) {                                                                                         \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            m = va_arg(rest, mode_t);                                                                                  \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        GUARD((flags & (O_CREAT | O_TRUNC)) && inside(path), 0, 0)                                                     \
        return REAL(name)(path, flags, m);                                                                             \
    }
OPENING(open)
OPENING(open64)
