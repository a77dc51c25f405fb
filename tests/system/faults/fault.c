/* A disk that fails on demand and forgets what was not synced: preloaded into the hub by tests/system/faults.
 *
 * Everything that the process does to files beneath ESS_FAULT_DIR passes through here. A control block, mapped from a file that
 * the test writes, says which calls fail. Beside it each change is written to a log with the bytes that it replaced, and each sync,
 * so that after SIGKILL the test can take any unsynced part of it back: what a power cut leaves. The real fsync is not called: the
 * log is the disk. A call, its failure and its line in the log are one step under one lock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, CREATE = 8, RENAME = 16, UNLINK = 32, LINK = 64, MKDIR = 128 };
enum { SECTOR = 512, FDS = 65536 };

/* The same in disk.py. */
struct control {
    uint32_t ops;      /* which calls may fail */
    uint32_t skip;     /* so many of them pass first */
    uint32_t count;    /* so many of them fail then */
    int32_t error;     /* by this errno */
    uint32_t torn;     /* a failing write leaves its first half */
    uint32_t lies;     /* syncs say yes and do nothing */
    uint32_t failed;   /* calls that failed */
    uint32_t passed;   /* calls that would have matched and did not fail */
    uint32_t die_in;   /* at this step from now the process is killed; 0: never */
    uint32_t steps;    /* steps so far: calls that change or sync something */
    char files[64];    /* of files whose names end so, apart by commas; empty: of all */
};

/* The same in disk.py; the two lengths of bytes follow it. */
struct line {
    uint32_t kind;
    uint32_t first_bytes;
    uint32_t second_bytes;
    uint32_t is_dir;
    uint64_t file;
    uint64_t offset;
    uint64_t size;
};

struct open_file {
    uint64_t file;
    int is_dir;
    char *path;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control *control;
static int log_fd = -1;
static char dir[PATH_MAX];
static char graves[PATH_MAX];
static unsigned graves_count;
static struct open_file files[FDS];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *of = getenv("ESS_FAULT_DIR"), *state = getenv("ESS_FAULT_STATE");
    if (of == NULL || state == NULL) return;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/control", state);
    int fd = REAL(open64)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    snprintf(path, sizeof path, "%s/log", state);
    log_fd = REAL(open64)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    snprintf(graves, sizeof graves, "%s/graves", state);
    snprintf(dir, sizeof dir, "%s", of);
    if (control == MAP_FAILED || log_fd < 0) abort();
}

/* Whether this path is one of the hub's. */
static int is_ours(const char *path) {
    size_t length = strlen(dir);
    return length > 0 && path != NULL && strncmp(path, dir, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static struct open_file *ours(int fd) { return fd >= 0 && fd < FDS && files[fd].path != NULL ? &files[fd] : NULL; }

/* What SQLite makes anew at each start: it is in memory, not on the disk. */
static int is_shared_memory(const char *path) {
    size_t length = strlen(path);
    return length > 4 && strcmp(path + length - 4, "-shm") == 0;
}

static int names(const char *endings, const char *path) {
    if (endings[0] == 0) return 1;
    size_t length = strlen(path);
    for (const char *at = endings;; at++) {
        size_t count = strcspn(at, ",");
        if (count <= length && strncmp(path + length - count, at, count) == 0) return 1;
        at += count;
        if (*at == 0) return 0;
    }
}

/* Whether this call fails; sets errno. */
static int fails(uint32_t op, const char *path) {
    control->steps++;
    if (control->die_in > 0 && --control->die_in == 0) kill(getpid(), SIGKILL);
    if ((control->ops & op) == 0 || !names(control->files, path)) return 0;
    if (control->skip > 0 || control->count == 0) {
        if (control->skip > 0) control->skip--;
        control->passed++;
        return 0;
    }
    if (control->count != UINT32_MAX) control->count--;
    control->failed++;
    errno = control->error;
    return 1;
}

static void put(struct line line, const void *first, const void *second) {
    struct iovec parts[3] = {
        {&line, sizeof line}, {(void *)first, line.first_bytes}, {(void *)second, line.second_bytes}};
    ssize_t wanted = (ssize_t)(sizeof line + line.first_bytes + line.second_bytes);
    if (REAL(writev)(log_fd, parts, 3) != wanted) abort();
}

/* A change of names; a file that loses its name is kept, so that the name can be given back. */
static void put_names(uint32_t kind, const char *from, const char *to, const char *lost) {
    struct stat found;
    char grave[PATH_MAX + 32] = "";
    struct line line = {.kind = kind, .first_bytes = (uint32_t)strlen(from), .second_bytes = (uint32_t)strlen(to)};
    if (lost != NULL && lstat(lost, &found) == 0) {
        line.file = found.st_ino;
        line.offset = ++graves_count;
        snprintf(grave, sizeof grave, "%s/%d-%u", graves, (int)getpid(), graves_count);
        line.size = (uint64_t)getpid();
        if (REAL(linkat)(AT_FDCWD, lost, AT_FDCWD, grave, 0) != 0) abort();
    }
    put(line, from, to);
}

static void remember(int fd, const char *path, int is_new) {
    struct stat found;
    if (fd >= FDS || fstat(fd, &found) != 0) return;
    files[fd] = (struct open_file){.file = found.st_ino, .is_dir = S_ISDIR(found.st_mode), .path = strdup(path)};
    if (is_new && !is_shared_memory(path)) put_names('C', path, "", NULL);
}

/* The bytes that are there, from a sector's beginning to a sector's end; what lies past the end reads as zeros. */
static char *sectors(int fd, uint64_t from, uint64_t to, uint32_t *count) {
    *count = (uint32_t)(to - from);
    char *bytes = calloc(1, *count + 1), path[64];
    int reader = fd;
    /* A second descriptor only where the first can't read: closing one drops the process's locks on the file. */
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        reader = REAL(open64)(path, O_RDONLY | O_CLOEXEC);
    }
    for (uint64_t done = 0; done < *count;) {
        ssize_t got = pread64(reader, bytes + done, *count - done, (off64_t)(from + done));
        if (got <= 0) break;
        done += (uint64_t)got;
    }
    if (reader != fd) REAL(close)(reader);
    return bytes;
}

static void put_write(int fd, const struct open_file *file, const void *bytes, size_t count, uint64_t offset) {
    struct stat found;
    if (is_shared_memory(file->path) || fstat(fd, &found) != 0) return;
    uint64_t from = offset / SECTOR * SECTOR, to = (offset + count + SECTOR - 1) / SECTOR * SECTOR;
    uint32_t old_bytes;
    char *old = sectors(fd, from, to, &old_bytes);
    put((struct line){'W', old_bytes, (uint32_t)count, 0, file->file, offset, (uint64_t)found.st_size}, old, bytes);
    free(old);
}

static ssize_t write_at(int fd, struct open_file *file, const void *bytes, size_t count, uint64_t offset, int moves) {
    pthread_mutex_lock(&lock);
    int does_fail = fails(WRITE, file->path), error = errno;
    size_t done = does_fail ? (control->torn ? count / 2 : 0) : count;
    ssize_t result = 0;
    if (done > 0) {
        put_write(fd, file, bytes, done, offset);
        result = REAL(pwrite64)(fd, bytes, done, (off64_t)offset);
        if (moves && result > 0) lseek64(fd, result, SEEK_CUR);
    }
    pthread_mutex_unlock(&lock);
    if (!does_fail) return result;
    /* A write that fails in its middle: what it left is told by no one. */
    errno = error;
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    struct open_file *file = ours(fd);
    if (file == NULL) return REAL(pwrite64)(fd, bytes, count, offset);
    return write_at(fd, file, bytes, count, (uint64_t)offset, 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

ssize_t write(int fd, const void *bytes, size_t count) {
    struct open_file *file = ours(fd);
    if (file == NULL) return REAL(write)(fd, bytes, count);
    return write_at(fd, file, bytes, count, (uint64_t)lseek64(fd, 0, SEEK_CUR), 1);
}

int ftruncate64(int fd, off64_t size) {
    struct open_file *file = ours(fd);
    if (file == NULL) return REAL(ftruncate64)(fd, size);
    pthread_mutex_lock(&lock);
    int result = -1;
    struct stat found;
    if (!fails(TRUNCATE, file->path) && fstat(fd, &found) == 0) {
        if (!is_shared_memory(file->path)) {
            uint64_t from = (uint64_t)size / SECTOR * SECTOR, to = (uint64_t)found.st_size;
            uint32_t old_bytes;
            char *old = sectors(fd, from, from > to ? from : to, &old_bytes);
            put((struct line){'T', old_bytes, 0, 0, file->file, (uint64_t)size, (uint64_t)found.st_size}, old, "");
            free(old);
        }
        result = REAL(ftruncate64)(fd, size);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) {
    struct open_file *file = ours(fd);
    if (file == NULL) return REAL(fsync)(fd);
    pthread_mutex_lock(&lock);
    int does_fail = fails(SYNC, file->path), error = errno;
    struct line line = {does_fail ? 'F' : 'S', 0, 0, (uint32_t)file->is_dir, file->file, 0, 0};
    line.first_bytes = (uint32_t)strlen(file->path);
    if (does_fail || !control->lies) put(line, file->path, "");
    pthread_mutex_unlock(&lock);
    errno = error;
    return does_fail ? -1 : 0;
}

int fdatasync(int fd) { return fsync(fd); }

static int open_ours(const char *path, int flags, mode_t mode) {
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) != 0 && access(path, F_OK) != 0;
    int fd = is_new && fails(CREATE, path) ? -1 : REAL(open64)(path, flags & ~O_TRUNC, mode);
    if (fd >= 0) remember(fd, path, is_new);
    int error = errno;
    pthread_mutex_unlock(&lock);
    if (fd >= 0 && (flags & O_TRUNC) != 0 && ftruncate64(fd, 0) != 0) {
        close(fd);
        return -1;
    }
    errno = error;
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return is_ours(path) ? open_ours(path, flags, mode) : REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return is_ours(path) ? open_ours(path, flags, mode) : REAL(open)(path, flags, mode);
}

int close(int fd) {
    if (ours(fd) != NULL) {
        pthread_mutex_lock(&lock);
        free(files[fd].path);
        files[fd] = (struct open_file){0};
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(fd);
}

int rename(const char *from, const char *to) {
    if (!is_ours(from)) return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!fails(RENAME, to)) {
        put_names('R', from, to, to);
        result = REAL(rename)(from, to);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) {
    if (!is_ours(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!fails(UNLINK, path)) {
        if (!is_shared_memory(path) && access(path, F_OK) == 0) put_names('U', path, "", path);
        result = REAL(unlink)(path);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    if (!is_ours(to)) return REAL(linkat)(from_fd, from, to_fd, to, flags);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!fails(LINK, to)) {
        result = REAL(linkat)(from_fd, from, to_fd, to, flags);
        if (result == 0) put_names('C', to, "", NULL);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    if (!is_ours(path)) return REAL(mkdir)(path, mode);
    pthread_mutex_lock(&lock);
    int result = fails(MKDIR, path) ? -1 : REAL(mkdir)(path, mode);
    if (result == 0) put_names('M', path, "", NULL);
    pthread_mutex_unlock(&lock);
    return result;
}
