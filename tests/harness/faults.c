/* Preloaded by faults.py: counts the system calls that change files below a folder, and at one of
   them ends the process or lets the call fail.

   fault_arm(folder, at, how) starts the count; `how` is KILL_BEFORE, KILL_INSIDE or an errno, which is
   returned once, or with a minus sign from then on. fault_count() tells how many calls there were. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL_BEFORE = 1000, KILL_INSIDE = 1001 };

static char folder[PATH_MAX];
static long at, counted;
static int how;

void fault_arm(const char *root, long when, int what) {
    snprintf(folder, sizeof folder, "%s", root);
    at = when;
    how = what;
    counted = 0;
}

long fault_count(void) { return counted; }

static void die(void) { kill(getpid(), SIGKILL); }

/* 0: go on; 1: fail with errno; 2: do half of it and die. */
static int due(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    long number = __sync_add_and_fetch(&counted, 1);
    if (how < 0 && number >= at) { errno = -how; return 1; }
    if (number != at) return 0;
    if (how == KILL_BEFORE) die();
    if (how == KILL_INSIDE) return 2;
    errno = how;
    return 1;
}

static const char *absolute(const char *path, char *buffer) {
    if (path[0] == '/') return path;
    if (!getcwd(buffer, PATH_MAX)) return path;
    strncat(buffer, "/", PATH_MAX - strlen(buffer) - 1);
    strncat(buffer, path, PATH_MAX - strlen(buffer) - 1);
    return buffer;
}

static int due_path(const char *path) {
    char buffer[PATH_MAX * 2];
    int result = due(absolute(path, buffer));
    if (result == 2) die();
    return result;
}

static int due_descriptor(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return due(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int fault = due_descriptor(descriptor);
    if (fault == 1) return -1;
    if (fault == 2) { real(descriptor, data, size / 2); die(); }
    return real(descriptor, data, size);
}

#define ON_DESCRIPTOR(name) \
    int name(int descriptor) { \
        REAL(int, #name, int); \
        int fault = due_descriptor(descriptor); \
        if (fault == 2) die(); \
        return fault ? -1 : real(descriptor); \
    }
ON_DESCRIPTOR(fsync)
ON_DESCRIPTOR(fdatasync)

int ftruncate64(int descriptor, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    int fault = due_descriptor(descriptor);
    if (fault == 2) die();
    return fault ? -1 : real(descriptor, size);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return due_path(to) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return due_path(path) ? -1 : real(path);
}

int unlinkat(int parent, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    int fault = name[0] == '/' ? due_path(name) : due_descriptor(parent);
    if (fault == 2) die();
    return fault ? -1 : real(parent, name, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return due_path(path) ? -1 : real(path, mode);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return due_path(path) ? -1 : real(path);
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", const char *, int, ...);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if ((flags & O_CREAT) && due_path(path)) return -1;
    return real(path, flags, mode);
}

int msync(void *start, size_t length, int flags) {
    REAL(int, "msync", void *, size_t, int);
    return folder[0] && due_path(folder) ? -1 : real(start, length, flags);
}
