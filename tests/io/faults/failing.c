/* Preloaded before the C library: the N-th call that touches a file below a folder fails.

   fault_arm(folder, at, kind): count calls from now on; call number `at` ends with errno `kind`,
   or, where kind is SHORT, writes half, or, where kind is KILL, ends the process before it is made.
   fault_disarm() gives the number of calls that were counted, negative if none of them failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define SHORT (-1)
#define KILL (-2)
#define HANDLES 4096

static char below[4096];
static int calls, fatal, kind, fired;
static char watched[HANDLES];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void fault_arm(const char *folder, int at, int how) {
    snprintf(below, sizeof below, "%s", folder);
    memset(watched, 0, sizeof watched);
    calls = fired = 0;
    fatal = at;
    kind = how;
}

int fault_disarm(void) {
    below[0] = 0;
    return fired ? calls : -calls - 1;
}

/* Whether this call is the one. */
static int fails(int writes) {
    if (calls++ != fatal) return 0;
    if (kind == KILL) REAL(raise)(SIGKILL);
    if (kind == SHORT && !writes) return 0;
    fired = 1;
    if (kind > 0) errno = kind;
    return 1;
}

static int is_below(const char *path) { return below[0] && path && strstr(path, below); }
static int is_watched(int handle) {
    return below[0] && handle >= 0 && handle < HANDLES && watched[handle];
}

#define OPEN(name, declared, given)                                                            \
    int name declared {                                                                        \
        mode_t mode = 0;                                                                       \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                   \
            va_list rest;                                                                      \
            va_start(rest, flags);                                                             \
            mode = va_arg(rest, mode_t);                                                       \
            va_end(rest);                                                                      \
        }                                                                                      \
        if (is_below(path) && fails(0)) return -1;                                             \
        int handle = REAL(name) given;                                                         \
        if (handle >= 0 && handle < HANDLES) watched[handle] = is_below(path) ? 1 : 0;         \
        return handle;                                                                         \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

ssize_t write(int handle, const void *data, size_t size) {
    if (is_watched(handle) && fails(1)) {
        if (kind != SHORT) return -1;
        size = size > 1 ? size / 2 : size;
    }
    return REAL(write)(handle, data, size);
}

ssize_t read(int handle, void *data, size_t size) {
    if (is_watched(handle) && fails(0)) return -1;
    return REAL(read)(handle, data, size);
}

int fsync(int handle) {
    return is_watched(handle) && fails(0) ? -1 : REAL(fsync)(handle);
}

int close(int handle) {
    int bad = is_watched(handle) && fails(0);
    if (handle >= 0 && handle < HANDLES) watched[handle] = 0;
    int number = errno, done = REAL(close)(handle);
    if (!bad) return done;
    errno = number;
    return -1;
}

int rename(const char *from, const char *to) {
    return is_below(to) && fails(0) ? -1 : REAL(rename)(from, to);
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    return is_below(to) && fails(0) ? -1 : REAL(renameat)(from_at, from, to_at, to);
}

int unlink(const char *path) { return is_below(path) && fails(0) ? -1 : REAL(unlink)(path); }
