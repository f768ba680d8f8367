/*
 * What Python knows and the kernel may be told without asking it: attributes, entries, and that there are no
 * extended attributes. Everything here is published by Python and believed until Python withdraws it.
 *
 * The lock is held from looking an answer up until the kernel has it. So once a withdrawal has returned, no
 * older answer can follow an invalidation that is sent to the kernel afterwards.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define BLOCK_BYTES 4096
#define SECTOR_BYTES 512
#define NAME_BYTES 255
#define EVICTION_STEPS 64  /* buckets looked at for something to forget */
#define HANDLES_FROM (1ull << 62)  /* of what is opened without Python, which counts its own from 1 */

struct node {
    struct node *next;     /* in its bucket */
    uint64_t ino;          /* as the kernel numbers it */
    uint64_t lookups;      /* references that the kernel was given here, and Python has not been told of */
    uint64_t generation;   /* of the entries that are believed; 0: none are */
    uint64_t content;      /* generation of the pieces that are believed (contents.c); 0: none are */
    struct listing *listing;  /* of a directory: its entries in order; NULL: not known (listings.c) */
    struct fuse_attr attr;
    bool known;            /* the attributes are believed */
    bool no_xattrs;        /* it is known to have no extended attribute of any name */
    bool complete;         /* of a directory: names without an entry are absent */
    bool used;             /* since the hand of the clock passed */
};

struct entry {
    struct entry *next;
    uint64_t parent;
    uint64_t generation;   /* believed while it is the parent's */
    uint64_t ino;          /* 0: the name is absent */
    bool used;
    uint8_t length;
    char name[];
};

static struct {
    pthread_mutex_t lock;
    struct node **nodes;
    struct entry **entries;
    size_t node_mask, entry_mask;
    size_t node_count, entry_count, nodes_max, entries_max;
    size_t node_hand, entry_hand;
    uint64_t generation;     /* the last one given */
    uint64_t timeout_s;      /* how long the kernel may keep what it is told */
    int64_t trusted_until_ns;
} book = {.lock = PTHREAD_MUTEX_INITIALIZER};

cairn_counts cairn_answered;

static void end_reference(struct listing *listing);

/* Something was published or withdrawn that the listing does not tell. */
static void forget_listing(struct node *directory)
{
    end_reference(directory->listing);
    directory->listing = NULL;
}

/* ------------------------------------------------------------------ tables */

static size_t power_of_two(size_t least)
{
    size_t power = 1;

    while (power < least)
        power *= 2;
    return power;
}

int cairn_book_open(size_t nodes_max, size_t entries_max, uint64_t timeout_s)
{
    pthread_mutex_lock(&book.lock);
    if (book.nodes == NULL) {
        book.node_mask = power_of_two(nodes_max) - 1;
        book.entry_mask = power_of_two(entries_max) - 1;
        book.nodes = calloc(book.node_mask + 1, sizeof(*book.nodes));
        book.entries = calloc(book.entry_mask + 1, sizeof(*book.entries));
        book.nodes_max = nodes_max;
        book.entries_max = entries_max;
    }
    book.timeout_s = timeout_s;
    pthread_mutex_unlock(&book.lock);
    return book.nodes == NULL || book.entries == NULL ? -ENOMEM : 0;
}

static uint64_t mixed(uint64_t value)
{
    value ^= value >> 32;
    value *= 0x9E3779B97F4A7C15u;
    return value ^ value >> 29;
}

static uint64_t name_hash(uint64_t parent, const char *name, size_t length)
{
    uint64_t hash = 0xCBF29CE484222325u ^ mixed(parent);

    for (size_t at = 0; at < length; at++)
        hash = (hash ^ (unsigned char)name[at]) * 0x100000001B3u;
    return mixed(hash);
}

static struct node *find_node(uint64_t ino)
{
    struct node *node;

    if (book.nodes == NULL)
        return NULL;
    for (node = book.nodes[mixed(ino) & book.node_mask]; node != NULL; node = node->next)
        if (node->ino == ino)
            break;
    return node;
}

/* Forgets nodes that were not asked for lately; those that the kernel refers to stay, for their count. */
static void evict_nodes(void)
{
    for (int steps = 0; steps < EVICTION_STEPS && book.node_count >= book.nodes_max; steps++) {
        struct node **link = &book.nodes[book.node_hand++ & book.node_mask];

        while (*link != NULL) {
            struct node *node = *link;

            if (node->used || node->lookups) {
                node->used = false;
                link = &node->next;
            } else {
                *link = node->next;
                forget_listing(node);
                free(node);
                book.node_count--;
            }
        }
    }
}

static struct node *make_node(uint64_t ino)
{
    struct node *node = find_node(ino), **bucket;

    if (node != NULL || book.nodes == NULL)
        return node;
    if (book.node_count >= book.nodes_max)
        evict_nodes();
    if (book.node_count >= book.nodes_max || (node = calloc(1, sizeof(*node))) == NULL)
        return NULL;
    bucket = &book.nodes[mixed(ino) & book.node_mask];
    node->ino = ino;
    node->next = *bucket;
    *bucket = node;
    book.node_count++;
    return node;
}

static struct entry **find_entry(uint64_t parent, const char *name, size_t length)
{
    struct entry **link = &book.entries[name_hash(parent, name, length) & book.entry_mask];

    while (*link != NULL
           && ((*link)->parent != parent || (*link)->length != length || memcmp((*link)->name, name, length)))
        link = &(*link)->next;
    return link;
}

static void drop_entry(struct entry **link)
{
    struct entry *entry = *link;

    *link = entry->next;
    free(entry);
    book.entry_count--;
}

/* An entry that is dropped while it is believed leaves a gap in what is known of its directory. */
static void evict_entries(void)
{
    for (int steps = 0; steps < EVICTION_STEPS && book.entry_count >= book.entries_max; steps++) {
        struct entry **link = &book.entries[book.entry_hand++ & book.entry_mask];

        while (*link != NULL) {
            struct node *parent = find_node((*link)->parent);
            bool believed = parent != NULL && parent->generation == (*link)->generation;

            if (believed && (*link)->used) {
                (*link)->used = false;
                link = &(*link)->next;
                continue;
            }
            if (believed) {
                parent->complete = false;
                forget_listing(parent);
            }
            drop_entry(link);
        }
    }
}

static bool make_entry(struct node *parent, const char *name, size_t length, uint64_t ino)
{
    struct entry **link = find_entry(parent->ino, name, length);
    struct entry *entry = *link;
    bool believed = entry != NULL && entry->generation == parent->generation;

    if ((believed ? entry->ino : 0) != ino)
        forget_listing(parent);
    if (entry == NULL) {
        if (book.entry_count >= book.entries_max) {
            evict_entries();
            if (book.entry_count >= book.entries_max)
                return false;
            link = find_entry(parent->ino, name, length);
        }
        entry = malloc(sizeof(*entry) + length);
        if (entry == NULL)
            return false;
        entry->next = NULL;
        entry->parent = parent->ino;
        entry->length = length;
        memcpy(entry->name, name, length);
        *link = entry;
        book.entry_count++;
    }
    entry->ino = ino;
    entry->generation = parent->generation;
    entry->used = true;
    return true;
}

/* ------------------------------------------------------------------ called by Python */

static uint64_t whole_seconds(int64_t time_ns, uint32_t *rest_ns)
{
    int64_t rest = time_ns % NS_PER_S;

    *rest_ns = rest < 0 ? rest + NS_PER_S : rest;
    return (time_ns - *rest_ns) / NS_PER_S;
}

void cairn_publish_inode(const cairn_inode *from)
{
    struct node *node;

    pthread_mutex_lock(&book.lock);
    node = make_node(from->ino);
    if (node != NULL) {
        struct fuse_attr *attr = &node->attr, before = *attr;

        attr->ino = from->ino;
        attr->size = from->size;
        attr->blocks = (from->allocated_bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
        attr->atime = whole_seconds(from->atime_ns, &attr->atimensec);
        attr->mtime = whole_seconds(from->mtime_ns, &attr->mtimensec);
        attr->ctime = whole_seconds(from->ctime_ns, &attr->ctimensec);
        attr->mode = from->mode;
        attr->nlink = from->nlink;
        attr->uid = from->uid;
        attr->gid = from->gid;
        attr->rdev = from->rdev;
        attr->blksize = BLOCK_BYTES;
        if (attr->size != before.size || attr->mtime != before.mtime || attr->mtimensec != before.mtimensec)
            node->content = 0;
        node->no_xattrs = from->no_xattrs;
        node->known = !from->changing;
        node->used = true;
    }
    pthread_mutex_unlock(&book.lock);
}

void cairn_publish_entry(uint64_t parent, const char *name, size_t length, uint64_t ino)
{
    struct node *node;

    if (length > NAME_BYTES)
        return;
    pthread_mutex_lock(&book.lock);
    node = make_node(parent);
    if (node != NULL) {
        if (node->generation == 0)
            node->generation = ++book.generation;
        node->used = true;
        if (!make_entry(node, name, length, ino)) {
            node->complete = false;
            forget_listing(node);
        }
    }
    pthread_mutex_unlock(&book.lock);
}

void cairn_publish_complete(uint64_t directory)
{
    struct node *node;

    pthread_mutex_lock(&book.lock);
    node = make_node(directory);
    if (node != NULL) {
        if (node->generation == 0)
            node->generation = ++book.generation;
        node->complete = true;
    }
    pthread_mutex_unlock(&book.lock);
}

static uint64_t lookups_taken(struct node *node)
{
    uint64_t lookups = node == NULL ? 0 : node->lookups;

    if (lookups)
        node->lookups = 0;
    return lookups;
}

uint64_t cairn_withdraw_inode(uint64_t ino)
{
    struct node *node;
    uint64_t lookups;

    pthread_mutex_lock(&book.lock);
    node = find_node(ino);
    lookups = lookups_taken(node);
    if (node != NULL) {
        node->known = node->no_xattrs = false;
        node->content = 0;
        forget_listing(node);  /* it says where ".." leads */
    }
    pthread_mutex_unlock(&book.lock);
    return lookups;
}

void cairn_withdraw_attributes(uint64_t ino)
{
    struct node *node;

    pthread_mutex_lock(&book.lock);
    node = find_node(ino);
    if (node != NULL) {
        node->known = false;
        node->content = 0;
        forget_listing(node);
    }
    pthread_mutex_unlock(&book.lock);
}

uint64_t cairn_take_lookups(uint64_t ino)
{
    uint64_t lookups;

    pthread_mutex_lock(&book.lock);
    lookups = lookups_taken(find_node(ino));
    pthread_mutex_unlock(&book.lock);
    return lookups;
}

void cairn_withdraw_entry(uint64_t parent, const char *name, size_t length)
{
    struct node *node;

    if (length > NAME_BYTES)
        return;
    pthread_mutex_lock(&book.lock);
    node = find_node(parent);
    if (node != NULL && node->generation) {
        struct entry **link = find_entry(parent, name, length);

        node->complete = false;
        forget_listing(node);
        if (*link != NULL)
            drop_entry(link);
    }
    pthread_mutex_unlock(&book.lock);
}

void cairn_withdraw_directory(uint64_t directory)
{
    struct node *node;

    pthread_mutex_lock(&book.lock);
    node = find_node(directory);
    if (node != NULL) {
        node->generation = 0;
        node->complete = false;
        forget_listing(node);
    }
    pthread_mutex_unlock(&book.lock);
}

void cairn_clear(void)
{
    pthread_mutex_lock(&book.lock);
    for (size_t at = 0; book.nodes != NULL && at <= book.node_mask; at++)
        for (struct node **link = &book.nodes[at]; *link != NULL;) {
            struct node *node = *link;

            node->known = node->no_xattrs = node->complete = false;
            node->generation = node->content = 0;
            forget_listing(node);
            if (node->lookups) {
                link = &node->next;
            } else {
                *link = node->next;
                free(node);
                book.node_count--;
            }
        }
    for (size_t at = 0; book.entries != NULL && at <= book.entry_mask; at++)
        while (book.entries[at] != NULL)
            drop_entry(&book.entries[at]);
    pthread_mutex_unlock(&book.lock);
}

void cairn_trust_until(int64_t boottime_ns)
{
    pthread_mutex_lock(&book.lock);
    book.trusted_until_ns = boottime_ns;
    pthread_mutex_unlock(&book.lock);
}

/* ------------------------------------------------------------------ answers; the lock is held */

static bool trusted(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec < book.trusted_until_ns;
}

/* The size and the times of an inode change now; false when leases may have run out. Takes the lock itself. */
static bool attributes_change(uint64_t ino)
{
    struct node *node;
    bool may;

    pthread_mutex_lock(&book.lock);
    may = trusted();
    if (may && (node = find_node(ino)) != NULL) {
        node->known = false;
        node->content = 0;
    }
    pthread_mutex_unlock(&book.lock);
    return may;
}

/* Whether the kernel took the reply: it does not when the mount is being ended. */
static bool reply(int fd, uint64_t unique, int error, const void *body, size_t size)
{
    struct fuse_out_header out = {.len = sizeof(out) + size, .error = -error, .unique = unique};
    struct iovec parts[2] = {{&out, sizeof(out)}, {(void *)body, size}};

    return writev(fd, parts, size ? 2 : 1) == (ssize_t)(sizeof(out) + size);
}

static bool answer_lookup(int fd, const struct fuse_in_header *in, const char *name, size_t length)
{
    struct fuse_entry_out out = {.entry_valid = book.timeout_s};
    struct node *parent = find_node(in->nodeid), *child;
    struct entry *entry;

    if (parent == NULL || parent->generation == 0 || length > NAME_BYTES)
        return false;
    parent->used = true;
    entry = *find_entry(in->nodeid, name, length);
    if (entry != NULL && entry->generation != parent->generation)
        entry = NULL;
    if (entry == NULL && !parent->complete)
        return false;
    if (entry == NULL || entry->ino == 0) {
        if (entry == NULL)
            out.entry_valid = 0;  /* a recall would not know that the kernel has to forget this name */
        reply(fd, in->unique, 0, &out, sizeof(out));
        cairn_answered.absent++;
        return true;
    }
    entry->used = true;
    child = find_node(entry->ino);
    if (child == NULL || !child->known)
        return false;
    child->used = true;
    out.nodeid = child->ino;
    out.attr_valid = book.timeout_s;
    out.attr = child->attr;
    child->lookups++;
    if (!reply(fd, in->unique, 0, &out, sizeof(out)))
        child->lookups--;
    cairn_answered.lookup++;
    return true;
}

static bool answer_getattr(int fd, const struct fuse_in_header *in)
{
    struct fuse_attr_out out = {.attr_valid = book.timeout_s};
    struct node *node = find_node(in->nodeid);

    if (node == NULL || !node->known)
        return false;
    node->used = true;
    out.attr = node->attr;
    reply(fd, in->unique, 0, &out, sizeof(out));
    cairn_answered.getattr++;
    return true;
}

/* Names of other namespaces are not supported, which is an answer of its own. */
static bool supported_xattr(const char *name)
{
    static const char *const namespaces[] = {"user.", "trusted.", "security.", "system.posix_acl_"};

    for (size_t at = 0; at < sizeof(namespaces) / sizeof(*namespaces); at++)
        if (strncmp(name, namespaces[at], strlen(namespaces[at])) == 0)
            return true;
    return false;
}

static bool answer_xattr(int fd, const struct fuse_in_header *in, const char *body, size_t length)
{
    const struct fuse_getxattr_in *asked = (const void *)body;
    const struct fuse_getxattr_out nothing = {0};
    struct node *node = find_node(in->nodeid);

    if (node == NULL || !node->no_xattrs || length < sizeof(*asked))
        return false;
    if (in->opcode == FUSE_LISTXATTR) {
        reply(fd, in->unique, 0, &nothing, asked->size ? 0 : sizeof(nothing));
    } else {
        const char *name = body + sizeof(*asked);

        if (memchr(name, 0, length - sizeof(*asked)) == NULL || !supported_xattr(name))
            return false;
        reply(fd, in->unique, ENODATA, NULL, 0);
    }
    node->used = true;
    cairn_answered.xattr++;
    return true;
}

static bool answer_from_book(int fd, const struct fuse_in_header *in, const char *body, size_t length)
{
    const char *end;
    bool answered = false;

    pthread_mutex_lock(&book.lock);
    if (trusted())
        switch (in->opcode) {
        case FUSE_LOOKUP:
            end = memchr(body, 0, length);
            answered = end != NULL && answer_lookup(fd, in, body, end - body);
            break;
        case FUSE_GETATTR:
            answered = answer_getattr(fd, in);
            break;
        default:
            answered = answer_xattr(fd, in, body, length);
        }
    pthread_mutex_unlock(&book.lock);
    return answered;
}
