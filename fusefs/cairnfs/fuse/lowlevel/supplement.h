/* What Python sees of supplement.c: parsed by cffi and included by the C compiler, so no directives here. */

/* Facts about the request now being handled that pyfuse3 does not pass on. Valid until the handler's first await. */
typedef struct {
    uint64_t request;      /* names the request, for cairn_interrupted */
    uint64_t lock_owner;   /* of flush and release */
    int flock_release;     /* release: the owner's BSD lock must go */
    int xattr_flags;       /* of setxattr: XATTR_CREATE, XATTR_REPLACE */
    size_t readdir_size;   /* bytes of the reply buffer of readdir */
} cairn_extra;
extern cairn_extra cairn_current;

/* What the kernel agreed to in its INIT request. */
typedef struct {
    unsigned proto_minor;
    unsigned wanted;       /* FUSE_CAP_* */
    unsigned max_write;
    unsigned max_background;
} cairn_connection_info;
extern cairn_connection_info cairn_connection;

/* Call cairn_interrupted when the caller of this request is signalled; returns the request's name. */
uint64_t cairn_watch(void *req);

/* Replies; each ends the request. They return 0 or -errno. */
int cairn_reply_error(void *req, int error);
int cairn_reply_lock(void *req, int type, int64_t start, int64_t end, int pid);
int cairn_reply_lseek(void *req, int64_t offset);
int cairn_reply_copied(void *req, size_t count);
