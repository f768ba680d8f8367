/*
 * Opening and reading files without Python: which inodes may be opened, and in which files of this host their
 * bytes are. What is published of an inode is believed while its attributes are, and until they next change;
 * the lock of the book guards it all.
 *
 * Every byte that is given to the kernel has been checked against the CRC-32C of its 64 KiB in this very
 * read. What is wrong, or not in the page cache of the file that it lies in, is left to Python.
 */
#define SOURCES_MAX 2048
#define PIECES_MASK 16383
#define PIECE_SPAN_BITS 22         /* a piece lies within 4 MiB of its file */
#define CHECKED_BYTES 65536
#define CHECKED_MAX (MAX_TRANSFER / CHECKED_BYTES + 2)
#define RUN_TOLD_BYTES (128 * 1024)  /* shorter ones are not worth it */
#define PIECES_LOOKED_AT 64        /* of one bucket */

struct source {
    int fd;
    uint64_t number;       /* 0: nothing is here */
    bool reading, ended;
};

struct piece {
    struct piece *next;
    struct source *source;
    uint64_t source_number;
    uint64_t generation;
    uint64_t run_start, run_end;  /* what was read last without a gap, and not told to Python */
    cairn_content is;
    bool used;
    uint32_t checksums[];
};

static struct {
    struct source sources[SOURCES_MAX];
    struct piece *pieces[PIECES_MASK + 1];
    size_t count, pieces_max, hand;
    uint64_t next_source, next_handle;
    char *scratch;         /* of the thread */
} contents = {.next_handle = HANDLES_FROM};

/* ------------------------------------------------------------------ pieces; the lock is held */

static struct piece **bucket_of(uint64_t ino, uint64_t offset)
{
    return &contents.pieces[mixed(ino ^ (offset >> PIECE_SPAN_BITS) * 0x9E3779B97F4A7C15u) & PIECES_MASK];
}

static bool believed(const struct piece *piece)
{
    struct node *node = find_node(piece->is.ino);

    return node != NULL && node->known && node->content == piece->generation
        && piece->source->number == piece->source_number;
}

static void drop_piece(struct piece **link)
{
    struct piece *piece = *link;

    *link = piece->next;
    free(piece);
    contents.count--;
}

/* Removes what is not believed any more or, like a clock, what was not read lately. */
static void evict_pieces(void)
{
    for (int steps = 0; steps < EVICTION_STEPS && contents.count >= contents.pieces_max; steps++) {
        struct piece **link = &contents.pieces[contents.hand++ & PIECES_MASK];

        while (*link != NULL) {
            if ((*link)->used && believed(*link)) {
                (*link)->used = false;
                link = &(*link)->next;
            } else {
                drop_piece(link);
            }
        }
    }
}

static struct piece *piece_around(uint64_t ino, uint64_t start, uint64_t end)
{
    struct piece *piece = *bucket_of(ino, start);

    while (piece != NULL
           && (piece->is.ino != ino || start < piece->is.start || end > piece->is.start + piece->is.length
               || !believed(piece)))
        piece = piece->next;
    return piece;
}

/* ------------------------------------------------------------------ called by Python */

int cairn_contents_open(size_t pieces_max)
{
    pthread_mutex_lock(&book.lock);
    contents.pieces_max = pieces_max;
    if (contents.scratch == NULL)
        contents.scratch = malloc(CHECKED_MAX * CHECKED_BYTES);
    pthread_mutex_unlock(&book.lock);
    return contents.scratch == NULL ? -ENOMEM : 0;
}

uint64_t cairn_lend(int fd)
{
    uint64_t number = 0;

    pthread_mutex_lock(&book.lock);
    for (size_t tried = 0; tried < SOURCES_MAX && !number; tried++) {
        struct source *source = &contents.sources[++contents.next_source % SOURCES_MAX];

        if (source->number || source->reading)
            continue;
        source->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (source->fd < 0)
            break;
        source->ended = false;
        number = source->number = contents.next_source;
    }
    pthread_mutex_unlock(&book.lock);
    return number;
}

void cairn_end_loan(uint64_t number)
{
    struct source *source = &contents.sources[number % SOURCES_MAX];

    pthread_mutex_lock(&book.lock);
    if (number && source->number == number) {
        source->number = 0;
        source->ended = true;
        if (!source->reading)
            close(source->fd);
    }
    pthread_mutex_unlock(&book.lock);
}

/* Whether the attributes are known, without which nothing is published. */
int cairn_publish_content(const cairn_content *from, const uint32_t *checksums, size_t count)
{
    struct piece **bucket = bucket_of(from->ino, from->start), *piece;
    struct node *node;
    int looked_at = 0, known;

    pthread_mutex_lock(&book.lock);
    node = find_node(from->ino);
    known = node != NULL && node->known;
    if (!known || count != (from->chunk_length + CHECKED_BYTES - 1) / CHECKED_BYTES)
        goto out;
    if (node->content == 0)
        node->content = ++book.generation;
    for (struct piece **link = bucket; *link != NULL;) {
        bool replaced = (*link)->is.ino == from->ino
            && ((*link)->is.start == from->start || (*link)->generation != node->content);

        if (replaced || ++looked_at >= PIECES_LOOKED_AT)
            drop_piece(link);
        else
            link = &(*link)->next;
    }
    if (contents.count >= contents.pieces_max)
        evict_pieces();
    if (contents.count >= contents.pieces_max
        || (piece = malloc(sizeof(*piece) + count * sizeof(*checksums))) == NULL)
        goto out;
    *piece = (struct piece){
        .next = *bucket,
        .source = &contents.sources[from->source % SOURCES_MAX],
        .source_number = from->source,
        .generation = node->content,
        .is = *from,
        .used = true,
    };
    memcpy(piece->checksums, checksums, count * sizeof(*checksums));
    *bucket = piece;
    contents.count++;
out:
    pthread_mutex_unlock(&book.lock);
    return known;
}

/* ------------------------------------------------------------------ answers */

static void tell_of_run(uint64_t handle, uint64_t offset, uint64_t length);  /* channel.c */

/* What is to be read for one request, copied from a piece: the lock is not held meanwhile. */
struct reading {
    struct source *source;
    uint64_t position;     /* in the file of the source */
    size_t size, skipped;  /* whole blocks, and where in them the answer begins */
    size_t wanted;
    uint64_t generation;
    uint32_t checksums[CHECKED_MAX];
};

static bool read_checked(const struct reading *reading)
{
    struct iovec into = {contents.scratch, reading->size};

    /* Never waits for a disk: others want to be answered. */
    if (preadv2(reading->source->fd, &into, 1, reading->position, RWF_NOWAIT) != (ssize_t)reading->size)
        return false;
    for (size_t at = 0; at < reading->size; at += CHECKED_BYTES) {
        size_t left = reading->size - at;

        if (cairn_crc32c(contents.scratch + at, left < CHECKED_BYTES ? left : CHECKED_BYTES)
            != reading->checksums[at / CHECKED_BYTES])
            return false;
    }
    return true;
}

/* Python reads ahead of those who read one chunk to its end, so it is told of them. The lock is held. */
static void note_run(const struct fuse_read_in *asked, uint64_t ino, uint64_t end)
{
    struct piece *piece = piece_around(ino, asked->offset, end);

    if (piece == NULL)
        return;
    if (piece->run_end != asked->offset)
        piece->run_start = asked->offset;
    piece->run_end = end;
    if (end == piece->is.start + piece->is.length && end - piece->run_start >= RUN_TOLD_BYTES)
        tell_of_run(asked->fh, piece->run_start, end - piece->run_start);
}

/* Whether the bytes are in one piece; then what to read. The lock is held. */
static bool find_reading(const struct fuse_in_header *in, uint64_t start, uint64_t end, struct reading *reading)
{
    struct piece *piece = piece_around(in->nodeid, start, end);
    uint64_t first, last, from, to;

    if (piece == NULL)
        return false;
    from = piece->is.chunk_offset + start - piece->is.start;
    to = from + (end - start);
    first = from / CHECKED_BYTES;
    last = (to - 1) / CHECKED_BYTES;
    reading->skipped = from - first * CHECKED_BYTES;
    reading->wanted = end - start;
    to = (last + 1) * CHECKED_BYTES;
    reading->size = (to < piece->is.chunk_length ? to : piece->is.chunk_length) - first * CHECKED_BYTES;
    reading->position = piece->is.position + first * CHECKED_BYTES;
    reading->generation = piece->generation;
    reading->source = piece->source;
    memcpy(reading->checksums, piece->checksums + first, (last + 1 - first) * sizeof(*piece->checksums));
    piece->used = true;
    return true;
}

static bool answer_read(int fd, const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_read_in *asked = (const void *)body;
    struct reading reading;
    struct node *node;
    uint64_t end;
    bool good, nothing = false;

    if (length < sizeof(*asked) || asked->size > MAX_TRANSFER)
        return false;
    pthread_mutex_lock(&book.lock);
    node = find_node(in->nodeid);
    good = trusted() && node != NULL && node->known && node->content;
    if (good) {
        node->used = true;
        end = asked->offset + asked->size < node->attr.size ? asked->offset + asked->size : node->attr.size;
        nothing = asked->offset >= end;
        good = !nothing && find_reading(in, asked->offset, end, &reading);
    }
    if (nothing)
        reply(fd, in->unique, 0, NULL, 0);
    if (good)
        reading.source->reading = true;
    pthread_mutex_unlock(&book.lock);
    if (!good)
        return nothing;
    good = read_checked(&reading);
    pthread_mutex_lock(&book.lock);
    reading.source->reading = false;
    if (reading.source->ended && !reading.source->number) {
        reading.source->ended = false;
        close(reading.source->fd);
    }
    node = find_node(in->nodeid);
    good = good && trusted() && node != NULL && node->known && node->content == reading.generation;
    if (good) {
        reply(fd, in->unique, 0, contents.scratch + reading.skipped, reading.wanted);
        cairn_answered.read++;
        note_run(asked, in->nodeid, end);
    }
    pthread_mutex_unlock(&book.lock);
    return good;
}

/* Files that a lease covers may be opened for reading; Python is told of it later (channel.c). */
static bool may_open(const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_open_in *asked = (const void *)body;
    struct node *node = find_node(in->nodeid);

    if (length < sizeof(*asked) || (asked->flags & O_ACCMODE) != O_RDONLY || asked->flags & O_TRUNC)
        return false;
    if (!trusted() || node == NULL || !node->known || !S_ISREG(node->attr.mode) || !node->attr.nlink)
        return false;
    node->used = true;
    return true;
}
