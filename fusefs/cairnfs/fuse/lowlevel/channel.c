/*
 * Reads the kernel's requests in a thread of its own, which never runs Python: it answers what the book
 * answers, keeps what needs no answer for later, and queues the rest. pyfuse3 takes from the queue what it
 * believes to read from the kernel; the descriptor that it waits for is an eventfd.
 *
 * Not needing an answer: forgets, releases of directories and of files that were opened for reading only.
 * A flush of such a file has nothing to report, and nothing to unlock while its owner has set no lock on
 * the inode; that is told by the requests for locks, which pass by here. Python says which other files have
 * nothing to report either.
 */
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define BUFFER_BYTES (MAX_TRANSFER + 4096)  /* the largest request: a write and its header */
#define QUEUE_MAX 32                        /* requests that pyfuse3 has not taken */
#define LATER_MAX 4096
#define LATER_WAKE 256                      /* more, and Python is woken for them: it reads ahead of who opens */
#define LATER_IDLE_MS 5                     /* or when no request has come for so long */
#define PAIRS_MASK 4095
#define PAIRS_MAX 65536

struct request {
    char *mem;
    size_t size;
};

struct pair {
    struct pair *next;
    uint64_t first, second;
};

struct pairs {
    struct pair *buckets[PAIRS_MASK + 1];
    size_t count;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t room;
    pthread_t thread;
    pthread_cond_t arrived;
    bool running, stopping, awake, lingering;
    bool later_due;                      /* Python should see to what was kept for later */
    int fuse_fd, wake_fd, stop_fd;
    int ended;                           /* 0: no; 1: unmounted; else -errno */
    struct request queue[QUEUE_MAX];
    unsigned first, count;
    char *spare[QUEUE_MAX + 1];          /* buffers that nobody uses */
    unsigned spares;
    cairn_later later[LATER_MAX];
    unsigned later_count;
    struct pairs quiet;                  /* (handle, 1 if its release needs no answer either) */
    struct pairs ends;                   /* (directory handle, offset after its last entry) */
    struct pairs lockers;                /* (inode, owner) that may hold record locks */
    bool lockers_lost;                   /* there were too many to remember */
} channel = {.lock = PTHREAD_MUTEX_INITIALIZER, .room = PTHREAD_COND_INITIALIZER, .wake_fd = -1, .stop_fd = -1};

/* ------------------------------------------------------------------ sets of pairs; the lock is held */

static struct pair **find_first(struct pairs *pairs, uint64_t first)
{
    struct pair **link = &pairs->buckets[mixed(first) & PAIRS_MASK];

    while (*link != NULL && (*link)->first != first)
        link = &(*link)->next;
    return link;
}

static struct pair **find_pair(struct pairs *pairs, uint64_t first, uint64_t second)
{
    struct pair **link = find_first(pairs, first);

    while (*link != NULL && ((*link)->first != first || (*link)->second != second))
        link = &(*link)->next;
    return link;
}

static bool add_pair(struct pairs *pairs, uint64_t first, uint64_t second)
{
    struct pair **link = find_pair(pairs, first, second), *pair;

    if (*link != NULL)
        return true;
    if (pairs->count >= PAIRS_MAX || (pair = malloc(sizeof(*pair))) == NULL)
        return false;
    *pair = (struct pair){NULL, first, second};
    *link = pair;
    pairs->count++;
    return true;
}

static bool remove_pair(struct pairs *pairs, struct pair **link)
{
    struct pair *pair = *link;

    if (pair == NULL)
        return false;
    *link = pair->next;
    free(pair);
    pairs->count--;
    return true;
}

static void remove_pairs(struct pairs *pairs)
{
    for (size_t at = 0; at <= PAIRS_MASK; at++)
        while (remove_pair(pairs, &pairs->buckets[at]))
            ;
}

/* ------------------------------------------------------------------ the thread */

static void wake_python(void)
{
    const uint64_t one = 1;

    if (channel.lingering) {
        pthread_cond_signal(&channel.arrived);
    } else if (!channel.awake) {
        channel.awake = true;
        if (write(channel.wake_fd, &one, sizeof(one)) < 0)
            perror("cairnfs: eventfd");
    }
}

static bool keep_for_later(int kind, uint64_t id, uint64_t detail, uint64_t length)
{
    if (channel.later_count == LATER_MAX)
        return false;
    channel.later[channel.later_count++] = (cairn_later){kind, id, detail, length};
    cairn_waiting_later = channel.later_count;
    if (channel.later_count >= LATER_WAKE || kind == CAIRN_READ || kind >= CAIRN_OPENDIR) {
        channel.later_due = true;
        wake_python();
    }
    return true;
}

static void tell_of_run(uint64_t handle, uint64_t offset, uint64_t length)
{
    pthread_mutex_lock(&channel.lock);
    keep_for_later(CAIRN_READ, handle, offset, length);
    pthread_mutex_unlock(&channel.lock);
}

static bool keep_forgets(const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_batch_forget_in *batch = (const void *)body;
    const struct fuse_forget_one *one = (const void *)(body + sizeof(*batch));

    if (in->opcode == FUSE_FORGET)
        return length >= sizeof(struct fuse_forget_in)
            && keep_for_later(CAIRN_FORGET, in->nodeid, ((const struct fuse_forget_in *)body)->nlookup, 0);
    if (length < sizeof(*batch) || (length - sizeof(*batch)) / sizeof(*one) < batch->count
        || batch->count > LATER_MAX - channel.later_count)
        return false;
    for (uint32_t at = 0; at < batch->count; at++)
        keep_for_later(CAIRN_FORGET, one[at].nodeid, one[at].nlookup, 0);
    return true;
}

static bool answer_flush(const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_flush_in *flush = (const void *)body;

    if (length < sizeof(*flush) || channel.lockers_lost
        || remove_pair(&channel.lockers, find_pair(&channel.lockers, in->nodeid, flush->lock_owner))
        || *find_first(&channel.quiet, flush->fh) == NULL)
        return false;
    reply(channel.fuse_fd, in->unique, 0, NULL, 0);
    cairn_answered.flush++;
    return true;
}

static bool answer_release(const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_release_in *release = (const void *)body;
    int kind = in->opcode == FUSE_RELEASE ? CAIRN_RELEASE : CAIRN_RELEASEDIR;

    if (length < sizeof(*release))
        return false;
    if (kind == CAIRN_RELEASEDIR) {
        remove_pair(&channel.ends, find_first(&channel.ends, release->fh));
    } else {
        struct pair **link = find_first(&channel.quiet, release->fh);
        bool needless = *link != NULL && (*link)->second;

        remove_pair(&channel.quiet, link);
        if (!needless || release->release_flags & FUSE_RELEASE_FLOCK_UNLOCK)
            return false;
    }
    if (!keep_for_later(kind, release->fh, 0, 0))
        return false;
    reply(channel.fuse_fd, in->unique, 0, NULL, 0);
    cairn_answered.release++;
    return true;
}

/* The end of a listing that Python has told. */
static bool answer_end(const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_read_in *asked = (const void *)body;
    struct pair **link;

    if (length < sizeof(*asked) || *(link = find_first(&channel.ends, asked->fh)) == NULL)
        return false;
    if ((*link)->second != asked->offset) {
        if (asked->offset == 0)  /* it is read again, and may end elsewhere */
            remove_pair(&channel.ends, link);
        return false;
    }
    reply(channel.fuse_fd, in->unique, 0, NULL, 0);
    cairn_answered.listing++;
    return true;
}

static void note_lock(const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_lk_in *asked = (const void *)body;

    if (length >= sizeof(*asked) && asked->lk.type != F_UNLCK && !(asked->lk_flags & FUSE_LK_FLOCK)
        && !add_pair(&channel.lockers, in->nodeid, asked->owner))
        channel.lockers_lost = true;
}

static bool answer_open(const struct fuse_in_header *in, const char *body, size_t length)
{
    struct fuse_open_out out = {.fh = contents.next_handle, .open_flags = FOPEN_KEEP_CACHE};
    bool done;

    pthread_mutex_lock(&book.lock);
    pthread_mutex_lock(&channel.lock);
    done = may_open(in, body, length) && channel.later_count < LATER_MAX && add_pair(&channel.quiet, out.fh, 1);
    if (done) {
        contents.next_handle++;
        cairn_answered.open++;
        if (reply(channel.fuse_fd, in->unique, 0, &out, sizeof(out)))
            keep_for_later(CAIRN_OPEN, out.fh, in->nodeid, 0);
        else  /* the caller gave up, so there will be no release */
            remove_pair(&channel.quiet, find_first(&channel.quiet, out.fh));
    }
    pthread_mutex_unlock(&channel.lock);
    pthread_mutex_unlock(&book.lock);
    return done;
}

static bool answer_opendir(const struct fuse_in_header *in)
{
    struct fuse_open_out out = {.fh = contents.next_handle};
    bool done;

    pthread_mutex_lock(&book.lock);
    pthread_mutex_lock(&channel.lock);
    done = may_list(in) && channel.later_count < LATER_MAX;
    if (done) {
        contents.next_handle++;
        cairn_answered.open++;
        if (reply(channel.fuse_fd, in->unique, 0, &out, sizeof(out)))
            keep_for_later(CAIRN_OPENDIR, out.fh, in->nodeid, 0);
    }
    pthread_mutex_unlock(&channel.lock);
    pthread_mutex_unlock(&book.lock);
    return done;
}

static bool answer_readdir(const struct fuse_in_header *in, const char *body, size_t length)
{
    bool done, few = false;

    pthread_mutex_lock(&channel.lock);
    done = answer_end(in, body, length);
    pthread_mutex_unlock(&channel.lock);
    if (done)
        return true;
    pthread_mutex_lock(&book.lock);
    done = answer_page(channel.fuse_fd, in, body, length, &few);
    pthread_mutex_unlock(&book.lock);
    if (few) {
        const struct fuse_read_in *asked = (const void *)body;

        pthread_mutex_lock(&channel.lock);
        keep_for_later(CAIRN_LISTED, asked->fh, asked->offset, 0);
        pthread_mutex_unlock(&channel.lock);
    }
    return done;
}

static bool absorbed(const struct fuse_in_header *in, const char *body, size_t length)
{
    bool taken = absorb_write(channel.fuse_fd, in, body, length);

    if (taken && cairn_absorbed_bytes >= LOG_WAKE) {
        pthread_mutex_lock(&channel.lock);
        channel.later_due = true;
        wake_python();
        pthread_mutex_unlock(&channel.lock);
    }
    return taken;
}

/* Whether the request was dealt with; else it is Python's. */
static bool dealt_with(const char *request, size_t size)
{
    const struct fuse_in_header *in = (const void *)request;
    const char *body = request + sizeof(*in);
    size_t length = size - sizeof(*in);
    bool done = false;

    switch (in->opcode) {
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        return answer_from_book(channel.fuse_fd, in, body, length);
    case FUSE_OPEN:
        return answer_open(in, body, length);
    case FUSE_READ:
        return answer_read(channel.fuse_fd, in, body, length);
    case FUSE_WRITE:
        return absorbed(in, body, length);
    case FUSE_OPENDIR:
        return answer_opendir(in);
    case FUSE_READDIRPLUS:
        return answer_readdir(in, body, length);
    case FUSE_RELEASEDIR:
        if (length >= sizeof(struct fuse_release_in))
            end_listing(((const struct fuse_release_in *)body)->fh);
        break;
    case FUSE_IOCTL:
        return reply(channel.fuse_fd, in->unique, ENOTTY, NULL, 0);
    }
    pthread_mutex_lock(&channel.lock);
    switch (in->opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        done = keep_forgets(in, body, length);
        break;
    case FUSE_FLUSH:
        done = answer_flush(in, body, length);
        break;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        done = answer_release(in, body, length);
        break;
    case FUSE_SETLK:
    case FUSE_SETLKW:
        note_lock(in, body, length);
    }
    pthread_mutex_unlock(&channel.lock);
    return done;
}

/* Gives the request to Python and returns another buffer to read into; NULL when the thread must end. */
static char *handed_over(char *mem, size_t size)
{
    pthread_mutex_lock(&channel.lock);
    while (channel.count == QUEUE_MAX && !channel.stopping)
        pthread_cond_wait(&channel.room, &channel.lock);
    if (channel.stopping) {
        free(mem);
        mem = NULL;
    } else {
        channel.queue[(channel.first + channel.count++) % QUEUE_MAX] = (struct request){mem, size};
        wake_python();
        mem = channel.spares ? channel.spare[--channel.spares] : malloc(BUFFER_BYTES);
    }
    pthread_mutex_unlock(&channel.lock);
    return mem;
}

static int wait_for_requests(void)
{
    struct pollfd fds[2] = {{channel.fuse_fd, POLLIN, 0}, {channel.stop_fd, POLLIN, 0}};
    int ready = poll(fds, 2, cairn_waiting_later || cairn_absorbed_bytes ? LATER_IDLE_MS : -1);

    if (ready == 0) {
        pthread_mutex_lock(&channel.lock);
        channel.later_due = channel.later_count > 0 || cairn_absorbed_bytes;
        if (channel.later_due)
            wake_python();
        pthread_mutex_unlock(&channel.lock);
        ready = poll(fds, 2, -1);
    }
    if (ready < 0)
        return errno == EINTR ? 0 : errno;
    return fds[1].revents ? ENODEV : 0;
}

static void *read_requests(void *unused)
{
    char *mem = malloc(BUFFER_BYTES);
    int error = mem == NULL ? ENOMEM : 0;

    while (!error) {
        ssize_t size = read(channel.fuse_fd, mem, BUFFER_BYTES);

        if (size >= (ssize_t)sizeof(struct fuse_in_header)) {
            if (!dealt_with(mem, size) && (mem = handed_over(mem, size)) == NULL)
                error = ENOMEM;
        } else if (size >= 0) {
            error = EIO;
        } else if (errno == EAGAIN) {
            error = wait_for_requests();
        } else if (errno != EINTR && errno != ENOENT) {  /* ENOENT: the caller gave up */
            error = errno;
        }
    }
    free(mem);
    pthread_mutex_lock(&channel.lock);
    channel.ended = error == ENODEV ? 1 : -error;
    wake_python();
    pthread_mutex_unlock(&channel.lock);
    return unused;
}

/* ------------------------------------------------------------------ what pyfuse3 calls */

static int start_reading(int fuse_fd)
{
    pthread_condattr_t monotonic;
    sigset_t every, before;
    int failed;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&channel.arrived, &monotonic);
    channel.fuse_fd = fuse_fd;
    channel.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    channel.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    channel.ended = channel.first = channel.count = channel.later_count = cairn_waiting_later = 0;
    forget_writes();
    channel.stopping = channel.awake = channel.lockers_lost = channel.later_due = false;
    if (channel.wake_fd < 0 || channel.stop_fd < 0 || fcntl(fuse_fd, F_SETFL, fcntl(fuse_fd, F_GETFL) | O_NONBLOCK))
        return -1;
    sigfillset(&every);  /* signals are Python's business */
    pthread_sigmask(SIG_SETMASK, &every, &before);
    failed = pthread_create(&channel.thread, NULL, read_requests, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    channel.running = !failed;
    return failed ? -1 : channel.wake_fd;
}

static void stop_reading(void)
{
    const uint64_t one = 1;

    if (!channel.running)
        return;
    pthread_mutex_lock(&channel.lock);
    channel.stopping = true;
    pthread_cond_signal(&channel.room);
    pthread_mutex_unlock(&channel.lock);
    if (write(channel.stop_fd, &one, sizeof(one)) < 0)
        perror("cairnfs: eventfd");
    pthread_join(channel.thread, NULL);
    channel.running = false;
    while (channel.count--)
        free(channel.queue[channel.first++ % QUEUE_MAX].mem);
    while (channel.spares)
        free(channel.spare[--channel.spares]);
    remove_pairs(&channel.quiet);
    remove_pairs(&channel.lockers);
    remove_pairs(&channel.ends);
    end_listings();
    close(channel.wake_fd);
    close(channel.stop_fd);
}

int fuse_session_fd(struct fuse_session *se)
{
    static int (*real)(struct fuse_session *);

    if (real == NULL)
        real = dlsym(RTLD_NEXT, "fuse_session_fd");
    return channel.running ? channel.wake_fd : start_reading(real(se));
}

void fuse_session_destroy(struct fuse_session *se)
{
    void (*real)(struct fuse_session *) = dlsym(RTLD_NEXT, "fuse_session_destroy");

    stop_reading();
    real(se);
}

/* pyfuse3 keeps one buffer for each of its tasks; the request's takes its place. */
int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
    int result = -EINTR;

    pthread_mutex_lock(&channel.lock);
    if (channel.count) {
        struct request *request = &channel.queue[channel.first++ % QUEUE_MAX];

        channel.count--;
        if (buf->mem != NULL && channel.spares < QUEUE_MAX)
            channel.spare[channel.spares++] = buf->mem;
        else
            free(buf->mem);
        buf->mem = request->mem;
        buf->size = request->size;
        buf->flags = 0;
        result = request->size;
        pthread_cond_signal(&channel.room);
    } else if (channel.ended) {
        fuse_session_exit(se);
        result = channel.ended < 0 ? channel.ended : 0;
    }
    pthread_mutex_unlock(&channel.lock);
    return result;
}

/* ------------------------------------------------------------------ called from Python */

static bool nothing_to_do(void)
{
    return channel.count == 0 && !channel.ended && !channel.later_due;
}

static void linger(int64_t wait_ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    wait_ns += until.tv_nsec;
    until.tv_sec += wait_ns / NS_PER_S;
    until.tv_nsec = wait_ns % NS_PER_S;
    channel.lingering = true;
    while (nothing_to_do() && pthread_cond_timedwait(&channel.arrived, &channel.lock, &until) == 0)
        ;
    channel.lingering = false;
}

int cairn_rest(int64_t wait_ns)
{
    uint64_t wakes;
    bool nothing;

    pthread_mutex_lock(&channel.lock);
    if (wait_ns && nothing_to_do())
        linger(wait_ns);
    nothing = nothing_to_do();
    if (nothing && channel.awake) {
        channel.awake = false;
        if (read(channel.wake_fd, &wakes, sizeof(wakes)) < 0)
            perror("cairnfs: eventfd");
    }
    pthread_mutex_unlock(&channel.lock);
    return nothing;
}

size_t cairn_take_later(cairn_later *into, size_t room)
{
    size_t taken;

    pthread_mutex_lock(&channel.lock);
    taken = channel.later_count < room ? channel.later_count : room;
    channel.later_count -= taken;
    memcpy(into, channel.later, taken * sizeof(*into));
    memmove(channel.later, channel.later + taken, channel.later_count * sizeof(*into));
    cairn_waiting_later = channel.later_count;
    channel.later_due = channel.later_count > 0;
    pthread_mutex_unlock(&channel.lock);
    return taken;
}

void cairn_publish_handle(uint64_t handle, int only_read)
{
    pthread_mutex_lock(&channel.lock);
    if (*find_first(&channel.quiet, handle) == NULL)
        add_pair(&channel.quiet, handle, only_read);
    pthread_mutex_unlock(&channel.lock);
}

void cairn_withdraw_handle(uint64_t handle)
{
    pthread_mutex_lock(&channel.lock);
    remove_pair(&channel.quiet, find_first(&channel.quiet, handle));
    pthread_mutex_unlock(&channel.lock);
}

void cairn_listing_ends(uint64_t handle, uint64_t offset)
{
    pthread_mutex_lock(&channel.lock);
    remove_pair(&channel.ends, find_first(&channel.ends, handle));
    add_pair(&channel.ends, handle, offset);
    pthread_mutex_unlock(&channel.lock);
}

int cairn_expire_entries(void)
{
    const struct fuse_out_header notice = {.len = sizeof(notice), .error = 8};  /* FUSE_NOTIFY_INC_EPOCH */

    if (!channel.running)
        return -ENOTCONN;
    return write(channel.fuse_fd, &notice, sizeof(notice)) < 0 ? -errno : 0;
}
