/*
 * Small writes that are taken without Python: copied into a log that Python takes over before it handles any
 * other request. Python says for which open files that may be done (a WRITE lease covers them and nothing has
 * to be reported), and how many bytes it has room for. When a withdrawal has returned, no more writes of that
 * open file are taken here; those taken before are in the log.
 */
#define WRITERS 1024                 /* open files that may be known here; one more takes another's place */
#define ABSORBED_MAX (128 << 10)     /* of one write; for a larger one Python's share of the cost is small */
#define LOG_BYTES (4 << 20)
#define LOG_WAKE (LOG_BYTES / 4)     /* more, and Python is woken to take it */

struct written {
    uint64_t ino, offset;
    int64_t time_ns;
    uint64_t size;
    char data[];                     /* padded to 8 bytes */
};

static struct {
    pthread_mutex_t lock;
    struct {
        uint64_t handle, ino;        /* as Python numbers it */
        bool known;
    } writers[WRITERS];
    char *log, *taken;               /* `taken` is Python's until it asks for more */
    size_t used;
    uint64_t room;
} writes = {.lock = PTHREAD_MUTEX_INITIALIZER};

volatile size_t cairn_absorbed_bytes;

static void forget_writes(void)
{
    pthread_mutex_lock(&writes.lock);
    memset(writes.writers, 0, sizeof(writes.writers));
    writes.used = writes.room = cairn_absorbed_bytes = 0;
    pthread_mutex_unlock(&writes.lock);
}

static bool is_plain(const struct fuse_write_in *asked, size_t length)
{
    return length >= sizeof(*asked) && asked->size > 0 && asked->size <= ABSORBED_MAX
        && length - sizeof(*asked) >= asked->size && asked->offset <= (uint64_t)INT64_MAX - asked->size
        && !(asked->write_flags & FUSE_WRITE_CACHE)  /* pages of a mapping: whose handle that is, is not certain */
        && !(asked->flags & (O_APPEND | O_SYNC | O_DSYNC | O_DIRECT));
}

/* Whether the write was taken, and answered. */
static bool absorb_write(int fd, const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_write_in *asked = (const void *)body;
    struct fuse_write_out out = {0};
    struct timespec now;
    size_t at, needed;
    bool taken = false;

    if (!is_plain(asked, length))
        return false;
    at = mixed(asked->fh) % WRITERS;
    needed = sizeof(struct written) + (asked->size + 7) / 8 * 8;
    pthread_mutex_lock(&writes.lock);
    if (writes.writers[at].known && writes.writers[at].handle == asked->fh && writes.room >= asked->size
        && LOG_BYTES - writes.used >= needed && attributes_change(in->nodeid)) {
        struct written *one = (void *)(writes.log + writes.used);

        clock_gettime(CLOCK_REALTIME, &now);
        one->ino = writes.writers[at].ino;
        one->offset = asked->offset;
        one->time_ns = now.tv_sec * NS_PER_S + now.tv_nsec;
        one->size = asked->size;
        memcpy(one->data, body + sizeof(*asked), asked->size);
        writes.room -= asked->size;
        writes.used += needed;
        cairn_absorbed_bytes = writes.used;
        taken = true;
    }
    pthread_mutex_unlock(&writes.lock);
    if (taken) {
        out.size = asked->size;
        cairn_answered.write++;
        reply(fd, in->unique, 0, &out, sizeof(out));
    }
    return taken;
}

/* ------------------------------------------------------------------ called from Python */

int cairn_publish_writer(uint64_t handle, uint64_t ino)
{
    size_t at = mixed(handle) % WRITERS;

    pthread_mutex_lock(&writes.lock);
    if (writes.log == NULL)
        writes.log = malloc(LOG_BYTES);
    if (writes.taken == NULL)
        writes.taken = malloc(LOG_BYTES);
    writes.writers[at].handle = handle;
    writes.writers[at].ino = ino;
    writes.writers[at].known = writes.log != NULL && writes.taken != NULL;
    pthread_mutex_unlock(&writes.lock);
    return writes.writers[at].known;
}

void cairn_withdraw_writer(uint64_t handle)
{
    size_t at = mixed(handle) % WRITERS;

    pthread_mutex_lock(&writes.lock);
    if (writes.writers[at].handle == handle)
        writes.writers[at].known = false;
    pthread_mutex_unlock(&writes.lock);
}

void cairn_room_for_writes(uint64_t bytes)
{
    pthread_mutex_lock(&writes.lock);
    writes.room = bytes;
    pthread_mutex_unlock(&writes.lock);
}

size_t cairn_take_writes(char **log)
{
    size_t used;
    char *full;

    pthread_mutex_lock(&writes.lock);
    used = writes.used;
    if (used) {
        full = writes.log;
        writes.log = writes.taken;
        writes.taken = full;
        writes.used = cairn_absorbed_bytes = 0;
    }
    *log = writes.taken;
    pthread_mutex_unlock(&writes.lock);
    return used;
}
