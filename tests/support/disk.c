/* What a process does to the files below a folder, written down in order; and errors of single calls, on demand.

Preloaded (LD_PRELOAD) with SHIM_ROOT, the folder, and SHIM_LOG, the file for the records; see tests/support/disks.py,
which reads them. shim_fault() is called by the process itself. Files that end in -shm are left out: they are mapped.
*/

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536
#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char *paths[MOST];     /* of the descriptors that are watched */
static uint64_t serials[MOST]; /* which open they came from */
static uint64_t opened;
static const char *root;
static int log_file = -1;

struct head {
    uint8_t kind;
    uint8_t padding[7];
    uint64_t serial, offset;
    uint32_t path, data;
};

static struct {
    char call[16], path[256];
    int left, error, sticky, fired;
} fault;

void shim_fault(const char *call, const char *path, int nth, int error, int sticky) {
    pthread_mutex_lock(&mutex);
    strncpy(fault.call, call, sizeof fault.call - 1);
    strncpy(fault.path, path, sizeof fault.path - 1);
    fault.left = nth, fault.error = error, fault.sticky = sticky, fault.fired = 0;
    pthread_mutex_unlock(&mutex);
}

int shim_fired(void) { return fault.fired; }

static int fails(const char *call, const char *path) {
    if (!fault.error || !path || strcmp(call, fault.call) || !strstr(path, fault.path)) return 0;
    if (fault.left > 0 && --fault.left) return 0;
    if (!fault.sticky && fault.fired) return 0;
    fault.fired++;
    errno = fault.error;
    return 1;
}

static int begin(void) {
    if (!root) {
        root = getenv("SHIM_ROOT");
        if (!root) root = "";
        const char *name = getenv("SHIM_LOG");
        if (name) log_file = REAL(open)(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    return *root != 0;
}

static void note(char kind, uint64_t serial, uint64_t offset, const char *path, const void *data, size_t length) {
    if (log_file < 0) return;
    struct head head = {.kind = kind, .serial = serial, .offset = offset, .path = path ? strlen(path) : 0, .data = length};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)data, length}};
    REAL(writev)(log_file, parts, 3);
}

/* The absolute path if it is to be watched, in a buffer of the caller's. */
static const char *watched(int folder, const char *path, char *buffer) {
    if (!path || !begin()) return NULL;
    if (*path == '/') {
        strncpy(buffer, path, PATH_MAX);
    } else {
        if (folder == AT_FDCWD) {
            if (!getcwd(buffer, PATH_MAX)) return NULL;
        } else if (folder >= 0 && folder < MOST && paths[folder]) {
            strcpy(buffer, paths[folder]);
        } else {
            return NULL;
        }
        if (strcmp(path, ".")) strcat(buffer, "/"), strncat(buffer, path, PATH_MAX);
    }
    size_t length = strlen(buffer);
    if (strncmp(buffer, root, strlen(root)) || (length > 4 && !strcmp(buffer + length - 4, "-shm"))) return NULL;
    return buffer;
}

static char *of(int descriptor) { return descriptor >= 0 && descriptor < MOST ? paths[descriptor] : NULL; }

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char buffer[2 * PATH_MAX];
    const char *full = watched(folder, path, buffer);
    if (!full) return REAL(openat)(folder, path, flags, mode);
    pthread_mutex_lock(&mutex);
    int descriptor = -1;
    int is_new = (flags & O_TMPFILE) == O_TMPFILE || ((flags & O_CREAT) && REAL(access)(full, F_OK));
    if (!fails("open", full) && !(is_new && fails("create", full)))
        descriptor = REAL(openat)(folder, path, flags, mode);
    if (descriptor >= 0 && descriptor < MOST) {
        int saved = errno;
        free(paths[descriptor]);
        paths[descriptor] = strdup(full);
        serials[descriptor] = ++opened;
        note('O', opened, flags & O_TRUNC ? 1 : 0, full, NULL, 0);
        errno = saved;
    }
    pthread_mutex_unlock(&mutex);
    return descriptor;
}

#define MODE(flags) ({ mode_t m = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); \
    m = va_arg(more, int); va_end(more); } m; })

int open(const char *path, int flags, ...) { return open_at(AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return open_at(AT_FDCWD, path, flags, MODE(flags)); }
int openat(int folder, const char *path, int flags, ...) { return open_at(folder, path, flags, MODE(flags)); }
int openat64(int folder, const char *path, int flags, ...) { return open_at(folder, path, flags, MODE(flags)); }

int close(int descriptor) {
    pthread_mutex_lock(&mutex);
    if (of(descriptor)) {
        free(paths[descriptor]);
        paths[descriptor] = NULL;
    }
    pthread_mutex_unlock(&mutex);
    return REAL(close)(descriptor);
}

static ssize_t write_at(int descriptor, const void *data, size_t length, off_t offset, int moves) {
    char *path = of(descriptor);
    if (!path) return moves ? REAL(write)(descriptor, data, length) : REAL(pwrite)(descriptor, data, length, offset);
    pthread_mutex_lock(&mutex);
    ssize_t done = -1;
    if (!fails("write", path)) {
        if (moves) {
            struct stat found;
            offset = REAL(lseek)(descriptor, 0, SEEK_CUR);
            if (fcntl(descriptor, F_GETFL) & O_APPEND && !fstat(descriptor, &found)) offset = found.st_size;
            done = REAL(write)(descriptor, data, length);
        } else {
            done = REAL(pwrite)(descriptor, data, length, offset);
        }
    }
    int saved = errno;
    if (done > 0) note('W', serials[descriptor], offset, NULL, data, done);
    errno = saved;
    pthread_mutex_unlock(&mutex);
    return done;
}

ssize_t write(int descriptor, const void *data, size_t length) { return write_at(descriptor, data, length, 0, 1); }
ssize_t pwrite(int d, const void *data, size_t length, off_t offset) { return write_at(d, data, length, offset, 0); }
ssize_t pwrite64(int d, const void *data, size_t length, off_t offset) { return write_at(d, data, length, offset, 0); }

ssize_t read(int descriptor, void *data, size_t length) {
    if (fails("read", of(descriptor))) return -1;
    return REAL(read)(descriptor, data, length);
}
ssize_t pread(int descriptor, void *data, size_t length, off_t offset) {
    if (fails("read", of(descriptor))) return -1;
    return REAL(pread)(descriptor, data, length, offset);
}
ssize_t pread64(int descriptor, void *data, size_t length, off_t offset) {
    return pread(descriptor, data, length, offset);
}

static int truncated(int descriptor, off_t length) {
    char *path = of(descriptor);
    if (!path) return REAL(ftruncate)(descriptor, length);
    pthread_mutex_lock(&mutex);
    int done = fails("truncate", path) ? -1 : REAL(ftruncate)(descriptor, length);
    if (!done) note('T', serials[descriptor], length, NULL, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return done;
}

int ftruncate(int descriptor, off_t length) { return truncated(descriptor, length); }
int ftruncate64(int descriptor, off_t length) { return truncated(descriptor, length); }

static int synced(int descriptor, int all) {
    char *path = of(descriptor);
    if (!path) return all ? REAL(fsync)(descriptor) : REAL(fdatasync)(descriptor);
    pthread_mutex_lock(&mutex);
    uint64_t serial = serials[descriptor];
    int failed = fails("sync", path);
    if (!failed) note('S', serial, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&mutex);
    if (failed) return -1;
    usleep(100); /* nothing needs to reach this machine's disk: it is modelled. Others may write meanwhile */
    pthread_mutex_lock(&mutex);
    note('E', serial, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return 0;
}

int fsync(int descriptor) { return synced(descriptor, 1); }
int fdatasync(int descriptor) { return synced(descriptor, 0); }

static int renamed(int from, const char *old, int to, const char *new) {
    char one[2 * PATH_MAX], other[2 * PATH_MAX];
    const char *before = watched(from, old, one), *after = watched(to, new, other);
    pthread_mutex_lock(&mutex);
    int done = fails("rename", after) ? -1 : REAL(renameat)(from, old, to, new);
    if (!done && before && after) note('R', 0, 0, before, after, strlen(after));
    pthread_mutex_unlock(&mutex);
    return done;
}

int rename(const char *old, const char *new) { return renamed(AT_FDCWD, old, AT_FDCWD, new); }
int renameat(int from, const char *old, int to, const char *new) { return renamed(from, old, to, new); }

static int removed(int folder, const char *path, int flags) {
    char buffer[2 * PATH_MAX];
    const char *full = watched(folder, path, buffer);
    pthread_mutex_lock(&mutex);
    int done = fails("unlink", full) ? -1 : REAL(unlinkat)(folder, path, flags);
    if (!done && full) note('U', 0, 0, full, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return done;
}

int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int folder, const char *path, int flags) { return removed(folder, path, flags); }

static int made(int folder, const char *path, mode_t mode) {
    char buffer[2 * PATH_MAX];
    const char *full = watched(folder, path, buffer);
    pthread_mutex_lock(&mutex);
    int done = fails("mkdir", full) ? -1 : REAL(mkdirat)(folder, path, mode);
    if (!done && full) note('M', 0, 0, full, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return done;
}

int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return made(folder, path, mode); }
