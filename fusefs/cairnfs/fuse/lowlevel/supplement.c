/*
 * What pyfuse3 lacks, put between it and libfuse.
 *
 * This module defines fuse_session_new (and fuse_session_new_versioned, which newer libfuse headers call
 * instead). It is loaded with RTLD_GLOBAL before pyfuse3, so pyfuse3's call resolves to the definition here,
 * which completes pyfuse3's table of operations and passes it to the real function. Everything runs on
 * pyfuse3's thread, which holds the interpreter lock while libfuse dispatches a request.
 */

#undef fuse_session_new
struct libfuse_version;

#define MAX_BACKGROUND 512
#define CONGESTION_THRESHOLD 384
#define LOCK_END INT64_MAX

cairn_extra cairn_current;
cairn_connection_info cairn_connection;
volatile unsigned cairn_waiting_later;
static struct fuse_lowlevel_ops inner;  /* pyfuse3's own handlers */

static const struct fuse_ctx *caller_of(fuse_req_t req)
{
    static const struct fuse_ctx *(*real)(fuse_req_t);

    if (real == NULL)
        real = dlsym(RTLD_NEXT, "fuse_req_ctx");
    return real(req);
}

static void on_interrupt(fuse_req_t req, void *data)
{
    (void)data;
    cairn_interrupted((uintptr_t)req, caller_of(req)->pid);
}

uint64_t cairn_watch(void *req)
{
    fuse_req_interrupt_func(req, on_interrupt, NULL);
    return (uintptr_t)req;
}

/* ------------------------------------------------------------------ what pyfuse3 handles, with more facts */

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
    const unsigned on = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC
        | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_DONT_MASK | FUSE_CAP_POSIX_ACL | FUSE_CAP_CACHE_SYMLINKS
        | FUSE_CAP_EXPLICIT_INVAL_DATA;
    const unsigned off = FUSE_CAP_AUTO_INVAL_DATA  /* it beats EXPLICIT_INVAL_DATA */
        | FUSE_CAP_HANDLE_KILLPRIV                 /* the kernel clears setuid bits itself, by setattr */
        | FUSE_CAP_EXPORT_SUPPORT                  /* no lookup of "." and ".." by number */
        | FUSE_CAP_SPLICE_READ;                    /* two more system calls for every small request */

    inner.init(userdata, conn);
    conn->want = (conn->want | (on & conn->capable)) & ~off;
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = CONGESTION_THRESHOLD;
    if (conn->max_write > MAX_TRANSFER)
        conn->max_write = MAX_TRANSFER;
    cairn_connection.proto_minor = conn->proto_minor;
    cairn_connection.wanted = conn->want;
    cairn_connection.max_write = conn->max_write;
    cairn_connection.max_background = conn->max_background;
}

/* Requests whose handlers may wait: create and so on come through fuse_req_ctx below, these do not. */

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    inner.read(req, ino, size, off, fi);
}

static void on_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *data, off_t off,
                         struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    inner.write_buf(req, ino, data, off, fi);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    inner.fsync(req, ino, data_only, fi);
}

static void on_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    inner.fsyncdir(req, ino, data_only, fi);
}

static void on_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    inner.releasedir(req, ino, fi);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    cairn_current.lock_owner = fi->lock_owner;
    inner.flush(req, ino, fi);
}

static void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    cairn_current.lock_owner = fi->lock_owner;
    cairn_current.flock_release = fi->flock_release;
    inner.release(req, ino, fi);
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
                        int flags)
{
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    cairn_current.xattr_flags = flags;
    /* Without flags: pyfuse3 would look first and set later, which is a race. */
    inner.setxattr(req, ino, name, value, size, 0);
}

static void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    cairn_current.request = cairn_watch(req);
    cairn_current.readdir_size = size;
    inner.readdirplus(req, ino, size, off, fi);
}

/* ------------------------------------------------------------------ what pyfuse3 does not know */

static void answer_unless_taken(fuse_req_t req, int refused)
{
    if (refused)
        fuse_reply_err(req, EIO);
}

static int64_t last_byte(const struct flock *lock)
{
    return lock->l_len == 0 ? LOCK_END : lock->l_start + lock->l_len - 1;
}

static void on_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    answer_unless_taken(req, cairn_getlk(req, ino, fi->lock_owner, lock->l_type, lock->l_start,
                                         last_byte(lock), lock->l_pid));
}

static void on_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
    answer_unless_taken(req, cairn_setlk(req, ino, fi->fh, fi->lock_owner, lock->l_type, lock->l_start,
                                         last_byte(lock), lock->l_pid, sleep));
}

static void on_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
    answer_unless_taken(req, cairn_flock(req, ino, fi->lock_owner, operation));
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
    (void)ino;
    answer_unless_taken(req, cairn_fallocate(req, fi->fh, mode, offset, length));
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    (void)ino;
    answer_unless_taken(req, cairn_lseek(req, fi->fh, offset, whence));
}

static void on_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
                               fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t length,
                               int flags)
{
    (void)ino_in;
    (void)ino_out;
    if (flags != 0)
        fuse_reply_err(req, EINVAL);
    else
        answer_unless_taken(req, cairn_copy_file_range(req, fi_in->fh, off_in, fi_out->fh, off_out, length));
}

/* ------------------------------------------------------------------ interposition */

static struct fuse_session *session;

static const struct fuse_lowlevel_ops *completed(const struct fuse_lowlevel_ops *ops, size_t size)
{
    static struct fuse_lowlevel_ops complete;

    memset(&inner, 0, sizeof(inner));
    memcpy(&inner, ops, size < sizeof(inner) ? size : sizeof(inner));
    complete = inner;
    complete.init = on_init;
    complete.read = on_read;
    complete.write_buf = on_write_buf;
    complete.fsync = on_fsync;
    complete.fsyncdir = on_fsyncdir;
    complete.releasedir = on_releasedir;
    complete.flush = on_flush;
    complete.release = on_release;
    complete.setxattr = on_setxattr;
    complete.readdirplus = on_readdirplus;
    complete.getlk = on_getlk;
    complete.setlk = on_setlk;
    complete.flock = on_flock;
    complete.fallocate = on_fallocate;
    complete.lseek = on_lseek;
    complete.copy_file_range = on_copy_file_range;
    return &complete;
}

struct fuse_session *fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size,
                                      void *userdata)
{
    struct fuse_session *(*real)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *) =
        dlsym(RTLD_NEXT, "fuse_session_new");

    session = real == NULL ? NULL : real(args, completed(ops, size), sizeof(inner), userdata);
    return session;
}

struct fuse_session *fuse_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *ops,
                                                size_t size, struct libfuse_version *version, void *userdata)
{
    struct fuse_session *(*real)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t,
                                 struct libfuse_version *, void *) =
        dlsym(RTLD_NEXT, "fuse_session_new_versioned");

    session = real == NULL ? NULL : real(args, completed(ops, size), sizeof(inner), version, userdata);
    return session;
}

/* pyfuse3 asks for the caller of a request just before it calls the handler. */
const struct fuse_ctx *fuse_req_ctx(fuse_req_t req)
{
    cairn_current.request = cairn_watch(req);
    return caller_of(req);
}

/* To an entry without a node the kernel takes no reference, and keeps nothing of it. */
size_t fuse_add_direntry_plus(fuse_req_t req, char *buf, size_t size, const char *name,
                              const struct fuse_entry_param *entry, off_t next)
{
    static size_t (*real)(fuse_req_t, char *, size_t, const char *, const struct fuse_entry_param *, off_t);
    struct fuse_entry_param bare;

    if (real == NULL)
        real = dlsym(RTLD_NEXT, "fuse_add_direntry_plus");
    if (entry->generation == CAIRN_BARE) {
        bare = *entry;
        bare.ino = bare.generation = 0;
        entry = &bare;
    }
    return real(req, buf, size, name, entry, next);
}

/* ------------------------------------------------------------------ called from Python */

/* One call for all of them: a thread that asked for Python's lock between two would wait for it each time. */
int cairn_forget_entries(uint64_t parent, const char *names, size_t size)
{
    int refused = 0;

    for (const char *name = names; name < names + size; name += strlen(name) + 1) {
        int error = -fuse_lowlevel_notify_inval_entry(session, parent, name, strlen(name));

        if (error == ENODEV || error == ENOTCONN || error == EBADF)
            break;  /* the mount is over */
        if (error && error != ENOENT && error != ENOTDIR && error != ENOSYS)
            refused = error;
    }
    return refused;
}

int cairn_reply_error(void *req, int error)
{
    return fuse_reply_err(req, error);
}

int cairn_reply_lock(void *req, int type, int64_t start, int64_t end, int pid)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = start,
        .l_len = end == LOCK_END ? 0 : end - start + 1,
        .l_pid = pid,
    };

    return fuse_reply_lock(req, &lock);
}

int cairn_reply_lseek(void *req, int64_t offset)
{
    return fuse_reply_lseek(req, offset);
}

int cairn_reply_copied(void *req, size_t count)
{
    return fuse_reply_write(req, count);
}
