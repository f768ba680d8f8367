/*
 * Listings of directories without Python: what an open directory goes through, in order, and attributes from
 * the book. Python publishes the listing of a directory that is known as a whole, which is dropped as soon
 * as an entry comes or goes, and goes on with one that it reads itself, page by page, for one open directory.
 *
 * A listing only says in which order names come. Whether a name is there, and what it stands for, is looked
 * up in the book when it is told: what the book does not believe is left to Python, from that position on.
 * Positions count from "." at 0; position 2 is the first entry. The lock of the book guards it all.
 */
#define LISTED_FROM 2
#define OPENED_MASK 1023
#define REPLY_BYTES (128 * 1024)
#define AHEAD_MIN_ENTRIES 2000  /* fewer left of one that goes on, and Python is told to read the next page */

struct listed {
    uint64_t ino;          /* 0: never told */
    uint32_t name, mode;   /* where the name is; the type */
    uint32_t length;
};

struct listing {
    unsigned references;
    bool ended;            /* there are no more entries */
    bool told;             /* Python knows that few are left */
    uint64_t directory, above;
    uint32_t count, room;
    struct listed *entries;
    size_t names_size, names_room;
    char *names;
};

struct opened {
    struct opened *next;
    struct listing *listing;
    uint64_t handle;
    bool whole;            /* it is the directory's, and Python does not know its positions */
};

static struct {
    struct opened *opened[OPENED_MASK + 1];
    size_t count, count_max;  /* entries in all listings */
} listings;

static void end_reference(struct listing *listing)
{
    if (listing == NULL || --listing->references)
        return;
    listings.count -= listing->count;
    free(listing->entries);
    free(listing->names);
    free(listing);
}

static struct opened **find_opened(uint64_t handle)
{
    struct opened **link = &listings.opened[mixed(handle) & OPENED_MASK];

    while (*link != NULL && (*link)->handle != handle)
        link = &(*link)->next;
    return link;
}

static void end_opened(uint64_t handle)
{
    struct opened **link = find_opened(handle), *opened = *link;

    if (opened == NULL)
        return;
    *link = opened->next;
    end_reference(opened->listing);
    free(opened);
}

static struct opened *begin_opened(uint64_t handle, struct listing *listing)
{
    struct opened *opened;

    end_opened(handle);
    opened = calloc(1, sizeof(*opened));
    if (opened == NULL)
        return NULL;
    opened->handle = handle;
    opened->listing = listing;
    opened->next = *find_opened(handle);
    *find_opened(handle) = opened;
    listing->references++;
    return opened;
}

static void *grown(void *memory, size_t *room, size_t wanted, size_t each)
{
    size_t more = *room * 2 > wanted ? *room * 2 : wanted;

    if (wanted <= *room)
        return memory;
    memory = realloc(memory, more * each);
    if (memory != NULL)
        *room = more;
    return memory;
}

static bool append(struct listing *listing, const char *names, size_t size, const uint64_t *inos,
                   const uint32_t *modes, size_t count)
{
    size_t room = listing->room;
    void *entries, *bytes;

    if (listings.count + count > listings.count_max)
        return false;
    if ((entries = grown(listing->entries, &room, listing->count + count, sizeof(struct listed))) == NULL)
        return false;
    listing->entries = entries;
    listing->room = room;
    if ((bytes = grown(listing->names, &listing->names_room, listing->names_size + size + 1, 1)) == NULL)
        return false;
    listing->names = bytes;
    memcpy(listing->names + listing->names_size, names, size);
    listing->names[listing->names_size + size] = 0;
    for (size_t at = 0; at < count; at++) {
        const char *name = listing->names + listing->names_size;
        size_t length = strlen(name);

        listing->entries[listing->count++] = (struct listed){inos[at], listing->names_size, modes[at], length};
        listing->names_size += length + 1;
    }
    listings.count += count;
    return true;
}

static struct listing *new_listing(uint64_t directory, uint64_t above)
{
    struct listing *listing = calloc(1, sizeof(*listing));

    if (listing != NULL) {
        listing->references = 1;
        listing->directory = directory;
        listing->above = above;
    }
    return listing;
}

/* ------------------------------------------------------------------ called by Python */

void cairn_publish_listing(uint64_t directory, uint64_t above, const char *names, size_t size,
                           const uint64_t *inos, const uint32_t *modes, size_t count)
{
    struct listing *listing;
    struct node *node;

    pthread_mutex_lock(&book.lock);
    listings.count_max = book.entries_max;
    node = find_node(directory);
    if (node != NULL && node->generation && (listing = new_listing(directory, above)) != NULL) {
        forget_listing(node);
        listing->ended = true;
        if (append(listing, names, size, inos, modes, count))
            node->listing = listing;
        else
            end_reference(listing);
    }
    pthread_mutex_unlock(&book.lock);
}

int cairn_continue_listing(uint64_t handle, uint64_t position, int ended, uint64_t directory, uint64_t above,
                           const char *names, size_t size, const uint64_t *inos, const uint32_t *modes,
                           size_t count)
{
    struct listing *listing;
    struct opened *opened;
    bool taken = false;

    pthread_mutex_lock(&book.lock);
    listings.count_max = book.entries_max;
    if (position == 0 && (listing = new_listing(directory, above)) != NULL) {
        begin_opened(handle, listing);
        end_reference(listing);
    }
    opened = *find_opened(handle);
    if (opened != NULL && !opened->whole && opened->listing->count == position
        && append(opened->listing, names, size, inos, modes, count)) {
        opened->listing->ended = ended;
        opened->listing->told = false;
        taken = true;
    }
    pthread_mutex_unlock(&book.lock);
    return taken;
}

int cairn_take_listing(uint64_t handle, uint64_t position, char *name, size_t room)
{
    struct opened *opened;
    bool taken = false;

    pthread_mutex_lock(&book.lock);
    opened = *find_opened(handle);
    if (opened != NULL && opened->whole && position && position <= opened->listing->count) {
        const struct listed *before = &opened->listing->entries[position - 1];

        taken = before->length < room;
        if (taken)
            memcpy(name, opened->listing->names + before->name, before->length + 1);
    }
    if (opened != NULL && (opened->whole || position == 0))
        end_opened(handle);
    pthread_mutex_unlock(&book.lock);
    return taken;
}

/* ------------------------------------------------------------------ answers; the lock is held */

struct page {
    size_t used, size;
    char *bytes;
};

static struct fuse_direntplus *add_to_page(struct page *page, const char *name, size_t length, uint64_t ino,
                                           uint32_t mode, uint64_t next)
{
    struct fuse_direntplus *entry = (void *)(page->bytes + page->used);
    size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + length);

    if (page->used + size > page->size)
        return NULL;
    memset(entry, 0, size);
    entry->dirent.ino = ino;
    entry->dirent.off = next;
    entry->dirent.namelen = length;
    entry->dirent.type = (mode & S_IFMT) >> 12;
    memcpy(entry->dirent.name, name, length);
    page->used += size;
    return entry;
}

/* Fills the page from a position on; returns the position where it had to end. */
static uint64_t fill_page(struct page *page, const struct listing *listing, const struct node *directory,
                          uint64_t position)
{
    if (position == 0 && add_to_page(page, ".", 1, listing->directory, S_IFDIR, 1) != NULL)
        position = 1;
    if (position == 1 && add_to_page(page, "..", 2, listing->above, S_IFDIR, LISTED_FROM) != NULL)
        position = LISTED_FROM;
    for (; position >= LISTED_FROM && position - LISTED_FROM < listing->count; position++) {
        const struct listed *listed = &listing->entries[position - LISTED_FROM];
        const char *name = listing->names + listed->name;
        struct entry *known;
        struct fuse_direntplus *told;
        struct node *child;

        if (listed->ino == 0)
            continue;
        known = *find_entry(listing->directory, name, listed->length);
        if (known == NULL || directory->generation == 0 || known->generation != directory->generation)
            break;
        if (known->ino != listed->ino)
            continue;  /* removed or replaced since it was listed */
        child = find_node(known->ino);
        if (child == NULL || !child->known)
            break;
        told = add_to_page(page, name, listed->length, child->ino, child->attr.mode, position + 1);
        if (told == NULL)
            break;
        known->used = child->used = true;
        told->entry_out.nodeid = child->ino;
        told->entry_out.entry_valid = told->entry_out.attr_valid = book.timeout_s;
        told->entry_out.attr = child->attr;
        child->lookups++;
    }
    return position;
}

static void take_back(const struct page *page)
{
    size_t at = 0;

    while (at < page->used) {
        const struct fuse_direntplus *entry = (const void *)(page->bytes + at);
        struct node *child = entry->entry_out.nodeid ? find_node(entry->entry_out.nodeid) : NULL;

        if (child != NULL)
            child->lookups--;
        at += FUSE_DIRENTPLUS_SIZE(entry);
    }
}

static struct opened *opened_for(const struct fuse_in_header *in, const struct fuse_read_in *asked)
{
    struct node *node;
    struct opened *opened = *find_opened(asked->fh);

    if (asked->offset)
        return trusted() ? opened : NULL;
    end_opened(asked->fh);  /* it is listed anew */
    if (!trusted())
        return NULL;
    node = asked->fh >= HANDLES_FROM ? find_node(in->nodeid) : NULL;
    if (node == NULL || node->listing == NULL || (opened = begin_opened(asked->fh, node->listing)) == NULL)
        return NULL;
    opened->whole = true;
    return opened;
}

/* Sets `few` when Python should read the next page. */
static bool answer_page(int fd, const struct fuse_in_header *in, const char *body, size_t length, bool *few)
{
    static char bytes[REPLY_BYTES] __attribute__((aligned(8)));  /* there is one thread */
    const struct fuse_read_in *asked = (const void *)body;
    struct page page = {.bytes = bytes};
    struct listing *listing;
    struct opened *opened;
    struct node *node;
    uint64_t end;

    if (length < sizeof(*asked) || (opened = opened_for(in, asked)) == NULL)
        return false;
    listing = opened->listing;
    node = find_node(in->nodeid);
    if (node == NULL || asked->offset > LISTED_FROM + (uint64_t)listing->count)
        return false;
    node->used = true;
    page.size = asked->size < REPLY_BYTES ? asked->size : REPLY_BYTES;
    end = fill_page(&page, listing, node, asked->offset);
    if (page.used == 0 && !(listing->ended && end == LISTED_FROM + (uint64_t)listing->count))
        return false;
    *few = !listing->ended && !listing->told && end + AHEAD_MIN_ENTRIES > listing->count;
    listing->told |= *few;
    if (!reply(fd, in->unique, 0, bytes, page.used))
        take_back(&page);
    cairn_answered.listing++;
    return true;
}

/* Whether a directory may be opened to be listed without Python. */
static bool may_list(const struct fuse_in_header *in)
{
    struct node *node = find_node(in->nodeid);

    if (!trusted() || node == NULL || !node->known || node->listing == NULL || !node->attr.nlink)
        return false;
    node->used = true;
    return true;
}

static void end_listing(uint64_t handle)
{
    pthread_mutex_lock(&book.lock);
    end_opened(handle);
    pthread_mutex_unlock(&book.lock);
}

static void end_listings(void)
{
    pthread_mutex_lock(&book.lock);
    for (size_t at = 0; at <= OPENED_MASK; at++)
        while (listings.opened[at] != NULL)
            end_opened(listings.opened[at]->handle);
    pthread_mutex_unlock(&book.lock);
}
