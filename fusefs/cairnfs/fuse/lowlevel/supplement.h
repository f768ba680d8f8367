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

/* One inode as the kernel is told of it: numbers and owners are those that the mount shows. */
typedef struct {
    uint64_t ino, size, allocated_bytes;
    int64_t atime_ns, mtime_ns, ctime_ns;
    uint32_t mode, nlink, uid, gid, rdev;
    int no_xattrs;
    int changing;          /* only that, and the references, are told: the rest may be different at any time */
} cairn_inode;

/* What was answered without Python, by kind of request. */
typedef struct {
    uint64_t lookup, absent, getattr, xattr, flush, release, listing, open, read, write;
} cairn_counts;
extern cairn_counts cairn_answered;

/* The book of answers (answers.c); see cairnfs.vfs.answers for what each function promises. */
int cairn_book_open(size_t nodes_max, size_t entries_max, uint64_t timeout_s);
void cairn_publish_inode(const cairn_inode *from);
void cairn_publish_entry(uint64_t parent, const char *name, size_t length, uint64_t ino);
void cairn_publish_complete(uint64_t directory);
uint64_t cairn_withdraw_inode(uint64_t ino);
void cairn_withdraw_attributes(uint64_t ino);
void cairn_withdraw_entry(uint64_t parent, const char *name, size_t length);
void cairn_withdraw_directory(uint64_t directory);
uint64_t cairn_take_lookups(uint64_t ino);
void cairn_clear(void);
void cairn_trust_until(int64_t boottime_ns);

/* Listings (listings.c): names, each followed by a zero but the last, with the inodes (0: never told) and modes of
 * `count` entries in order. The first is of a whole directory, as long as no entry comes or goes. The second is
 * of one open directory, from a position on at which what was taken of it before ends (0: it begins); returns
 * whether it was taken. The third ends what an open directory lists because of the first, or lists at all if
 * it begins anew; returns whether it has put the name before that position at `name`. */
void cairn_publish_listing(uint64_t directory, uint64_t above, const char *names, size_t size,
                           const uint64_t *inos, const uint32_t *modes, size_t count);
int cairn_continue_listing(uint64_t handle, uint64_t position, int ended, uint64_t directory, uint64_t above,
                           const char *names, size_t size, const uint64_t *inos, const uint32_t *modes,
                           size_t count);
int cairn_take_listing(uint64_t handle, uint64_t position, char *name, size_t room);

/* Contents (contents.c). A loan is a file descriptor, duplicated, by a number; 0: there is no room. A content is a
 * range of a file within a chunk, which lies at a position of the file lent; checksums are the CRC-32C of each
 * 64 KiB of the chunk. */
typedef struct {
    uint64_t ino, start, length, source, position, chunk_offset, chunk_length;
} cairn_content;
int cairn_contents_open(size_t pieces_max);
uint64_t cairn_lend(int fd);
void cairn_end_loan(uint64_t number);
int cairn_publish_content(const cairn_content *from, const uint32_t *checksums, size_t count);
uint32_t cairn_crc32c(const void *data, size_t size);

/* What Python has to hear of requests that it need not answer, kept in order until it has time (channel.c). */
enum { CAIRN_FORGET = 1, CAIRN_RELEASE = 2, CAIRN_RELEASEDIR = 3, CAIRN_OPEN = 4, CAIRN_READ = 5,
       CAIRN_OPENDIR = 6, CAIRN_LISTED = 7 };
typedef struct {
    uint64_t kind;
    uint64_t id;           /* inode or handle */
    uint64_t detail;       /* of a forget how many references, of an open the inode, of a read or listing its offset */
    uint64_t length;       /* of a read */
} cairn_later;
extern volatile unsigned cairn_waiting_later;
size_t cairn_take_later(cairn_later *into, size_t room);

/* Small writes taken without Python (writes.c): for these open files, and so many bytes more. */
extern volatile size_t cairn_absorbed_bytes;
int cairn_publish_writer(uint64_t handle, uint64_t ino);
void cairn_withdraw_writer(uint64_t handle);
void cairn_room_for_writes(uint64_t bytes);

/* What was taken, in order, each as (inode, offset, time_ns, size), 8 bytes each, and the bytes, padded to 8.
 * It is valid until the next call. Returns its size. */
size_t cairn_take_writes(char **log);

/* Whether there is nothing to do until the descriptor that pyfuse3 waits for is readable. Waits itself for
 * so long, because a caller that has its answer may call again at once. */
int cairn_rest(int64_t wait_ns);

/* Have the kernel forget entries, each name followed by a zero. Returns an errno that was not to be expected. */
int cairn_forget_entries(uint64_t parent, const char *names, size_t size);

/* The generation of an entry of a listing of which the kernel gets only name, number and type. */
enum { CAIRN_BARE = 0x62617265 };

/* A handle whose flush has nothing to report; if it is only read, its release needs no answer from Python. */
void cairn_publish_handle(uint64_t handle, int only_read);
void cairn_withdraw_handle(uint64_t handle);

/* Nothing follows this offset in the listing of an open directory, until it is read from its start again. */
void cairn_listing_ends(uint64_t handle, uint64_t offset);

/* Has the kernel look up every entry again before it uses it, also what it has asked for and not been told.
 * Waits for no lock. Returns 0, or -errno: -EINVAL before Linux 6.16, which cannot. */
int cairn_expire_entries(void);

/* Call cairn_interrupted when the caller of this request is signalled; returns the request's name. */
uint64_t cairn_watch(void *req);

/* Replies; each ends the request. They return 0 or -errno. */
int cairn_reply_error(void *req, int error);
int cairn_reply_lock(void *req, int type, int64_t start, int64_t end, int pid);
int cairn_reply_lseek(void *req, int64_t offset);
int cairn_reply_copied(void *req, size_t count);
