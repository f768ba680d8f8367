"""Every bound of CairnFS, and the relations between them, asserted when the module is loaded."""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# ------------------------------------------------------------------ names and inodes
NAME_MAX_BYTES: Final = 255
SYMLINK_MAX_BYTES: Final = 4095
LINK_MAX: Final = 65_000
XATTR_NAME_MAX_BYTES: Final = 255
XATTR_VALUE_MAX_BYTES: Final = 60 * KIB  # one engine value; the VFS itself allows 64 KiB
XATTR_LIST_MAX_BYTES: Final = 64 * KIB
FILE_SIZE_MAX_BYTES: Final = (1 << 63) - 1
ROOT_INO: Final = 1
TRASH_INO: Final = 1 << 61  # of the directory and the realm of what was removed
INODES_MAX: Final = 1 << 40  # as statfs tells it; inode numbers last longer

# ------------------------------------------------------------------ data
BLOCK_BYTES: Final = 4 * MIB
CHUNK_MAX_BYTES: Final = 4 * MIB
FRAME_MAX_BYTES: Final = 1 * MIB
CHECKSUM_BLOCK_BYTES: Final = 64 * KIB
PACK_CHUNK_MAX_BYTES: Final = 256 * KIB  # smaller chunks go into packs
PACK_FILE_MAX_BYTES: Final = 256 * MIB
REPLICATION_WINDOW_BYTES: Final = 8 * MIB  # under way on one replication stream
STORE_WINDOW_BYTES: Final = 8 * MIB  # under way from one client to one datanode
SLICES_COMPACT: Final = 64  # a block with more slices is compacted by who wrote it, some time later
SLICES_URGENT: Final = 1_100  # or at once: more than pages of 4 KiB can make of it
SLICES_MAX: Final = 1_280  # a block with more is refused until compacted

# ------------------------------------------------------------------ engine
TRANSACTION_MAX_BYTES: Final = 1 * MIB
TRANSACTION_MAX_KEYS: Final = 1_000
VALUE_MAX_BYTES: Final = 64 * KIB
GROUP_COMMIT_MAX_OPERATIONS: Final = 512
SCAN_PAGE_KEYS: Final = 256  # fetched at once by a scan
ENGINE_CACHE_MAX_BYTES: Final = 64 * MIB  # pages that each connection of an embedded engine keeps
WAL_CHECKPOINT_PAGES: Final = 4_096  # a longer log is written back into the database
ENGINE_SILENCE_S: Final = 10.0  # a database server that answers nothing for so long is given up
ENGINE_READ_S: Final = 3.0  # for a look-up, which holds up everything else; connecting again included
ENGINE_COMMIT_S: Final = 30.0  # for a commit, connecting again and finding out its fate included
ENGINE_RETRY_MIN_S: Final = 0.05  # pause before connecting again, doubled up to the next
ENGINE_RETRY_MAX_S: Final = 1.0
ENGINE_STATEMENT_MAX_BYTES: Final = 16 * MIB  # of keys and values in one statement
DUMP_FRAME_BYTES: Final = 256 * KIB  # of pairs, before compression
LEADERSHIP_RENEWALS: Final = 4  # per term of leadership
LEADERSHIP_PERCENT: Final = 95  # of a term, as its holder counts it: clocks run at different rates
ID_RANGE: Final = 4_096
EXTENT_BLOCKS_PER_STEP: Final = 400  # truncation, removal and copying go in such steps
STEP_KEYS_MAX: Final = 900  # keys one step writes; the conductor adds a few of its own
REAP_AT_ONCE_SLICES_MAX: Final = 64  # of a file that ends in the transaction that takes its last name
STEP_VALUES_MAX_BYTES: Final = 512 * KIB  # block values one step writes, before the last one
OPEN_EXTENT_BLOCKS: Final = 16  # sent along with the answer to open
EXTENTS_REPLY_SLICES_MAX: Final = 8_192  # the reply then covers less than was asked for

# ------------------------------------------------------------------ realms
REALM_DEPTH_MAX: Final = 8  # realms that enclose each other
REPLICAS_MAX: Final = 16  # of a chunk, whoever asks for them
RETAG_STEP_ENTRIES: Final = 200  # given another realm in one transaction

# ------------------------------------------------------------------ snapshots and clones
SNAPSHOTS_REALM: Final = 1 << 62  # no directory: the realm of all snapshots, whose inodes do not change
TREES_COPIED_MAX: Final = 4  # at once; each has a view of the engine
TREES_REMOVED_MAX: Final = 64  # that wait for it, or are being removed
COPY_STEP_INODES: Final = 256  # made in one transaction
COPY_PAGE_ENTRIES: Final = 128  # of a directory, read at once
REMOVE_STEP_ENTRIES: Final = 200  # taken from a directory in one transaction
REMOVED_INODES_MAX: Final = 1_000  # that wait to be reaped, before more are taken from their directories
FLUSH_ALL_S: Final = 120.0  # for a mount to save all that it has unsent
TREE_PROGRESS_S: Final = 0.5  # between two messages about a tree that is copied or removed

# ------------------------------------------------------------------ trash
TRASH_KEPT_MAX_S: Final = 100 * 365 * 86_400
TRASH_LISTED_AT_ONCE: Final = 500  # entries looked at for one reply
TRASH_CHANGED_AT_ONCE: Final = 256  # entries that one request names
TRASH_EXPIRED_AT_ONCE: Final = 64  # entries removed for good in one transaction
TRASH_LOOK_S: Final = 1.0  # between two looks at what has been kept long enough
TRASH_LOOK_IDLE_S: Final = 20.0  # where nothing is kept any more
TRASH_PATH_PARTS_MAX: Final = 64  # directories restored along with what was in them

# ------------------------------------------------------------------ messages
GRPC_MESSAGE_MAX_BYTES: Final = 8 * MIB
REQUESTS_PER_MESSAGE_MAX: Final = 256
SESSION_OUTSTANDING_MAX: Final = 4_096
READDIR_LIMIT_MAX: Final = 1_000
READDIR_FILE_SLICES_MAX: Final = 8  # a file with more is not located in a listing
SESSIONS_MAX: Final = 4_096
SESSION_OUTBOX_MAX_BYTES: Final = 64 * MIB  # events a client has not taken; more, and it is fenced
LEASES_PER_SESSION_MAX: Final = 1_000_000  # more, and the oldest are recalled
LEASES_RECALLED_AT_ONCE: Final = 1_000
LOCKS_PER_SESSION_MAX: Final = 65_536
FOOTPRINT_RETRIES_MAX: Final = 32
OPEN_RECALL_ROUNDS_MAX: Final = 3  # then a file opened for writing is shared with its readers
REPLIES_PURGED_AT_ONCE: Final = 256
COMMIT_SLICES_MAX: Final = 256
PLAN_CHUNKS_MAX: Final = 256
PLANS_KEPT_MAX: Final = 16  # placements that a client may use again for small chunks
PLAN_REUSE_S: Final = 2.0  # for so long after the coordinator named them
PLAN_REUSES_MAX: Final = 256  # chunks
PLANS_REMEMBERED_MAX: Final = 4_096  # chunks that are not planned so twice
BATCH_ENTRIES_MAX: Final = 512
BATCH_DETAIL_MAX_BYTES: Final = 64  # why an entry failed
CONTENDED_DIRECTORIES_MAX: Final = 4_096  # remembered for having lost their WRITE lease lately

# ------------------------------------------------------------------ HTTP/2, as we speak it ourselves
HTTP2_WINDOW_BYTES: Final = 1_024 * MIB  # what arrives is handled at once: who reads no more is held by TCP
HTTP2_FRAME_MAX_BYTES: Final = FRAME_MAX_BYTES + 64 * KIB  # of what we are sent
HTTP2_STREAMS_MAX: Final = 1_024  # at a time, of one connection
HTTP2_FIELDS_MAX_BYTES: Final = 32 * KIB  # of one header block
HTTP2_QUEUED_MESSAGES: Final = 64  # of one call, not yet taken by its handler, before reading stops
HTTP2_SEND_BUFFER_BYTES: Final = 1 * MIB  # not yet taken by the kernel, before calls are held back
HTTP2_KEEPALIVE_S: Final = 10.0  # of silence, until the peer's kernel is asked whether it lives
HTTP2_CONNECT_S: Final = 2.0  # for one attempt to connect

# ------------------------------------------------------------------ time
LEASE_S: Final = 10.0
RECALL_MAX_S: Final = 30.0  # a recall is answered within LEASE_S, or this while data is being saved for it
ATTENTION_GAP_S: Final = 1.0  # a coordinator that looked at nobody for longer was away, and counts so much
CLIENT_DOUBT_S: Final = LEASE_S / 2  # without contact the client stops trusting its caches
TRUST_LEASES_MAX: Final = (
    0.6  # lease times that a client may trust its caches after its last message: clocks differ
)
SESSION_HEARTBEAT_S: Final = 1.0
NODE_HEARTBEAT_S: Final = 5.0
NODE_SUSPECT_S: Final = 12.0
NODE_DEAD_S: Final = 30.0
RPC_DEADLINE_S: Final = 30.0
DIRTY_AGE_MAX_S: Final = 5.0
GARBAGE_GRACE_S: Final = 900.0
MEMBERSHIP_RING: Final = 1_024

# ------------------------------------------------------------------ a client's patience
SESSION_SILENCE_S: Final = 4.0  # a heartbeat unanswered for so long: connect elsewhere
WELCOME_DEADLINE_S: Final = 5.0  # from dialling a coordinator to its Welcome
RECONNECT_MIN_S: Final = 0.05  # back-off between attempts, doubled up to the next, jittered
RECONNECT_MAX_S: Final = 2.0  # of each coordinator
GOODBYE_S: Final = 1.0
TRANSFER_PROGRESS_S: Final = 15.0  # a chunk transfer without progress for so long is tried elsewhere
TRANSFER_DEADLINE_S: Final = 60.0  # for one chunk, all attempts together
HEDGE_MIN_S: Final = 0.05  # a read is tried at a second replica between these two delays
HEDGE_MAX_S: Final = 2.0
HEDGES_MAX: Final = 4  # second tries under way at once, all reads together
NODE_PENALTY_S: Final = 10.0  # a datanode that failed is tried last for so long

# ------------------------------------------------------------------ upkeep of stored data
LOW_SPACE_BYTES: Final = 1 * GIB  # below this, clients wait for their data at close
COPIES_PER_NODE_MAX: Final = 32  # repair copies that one node sends or receives at a time
COPIES_PER_NODE_MAX_BYTES: Final = 32 * MIB  # and what they may carry together
COPIES_MAX: Final = 512  # repair copies running in the cluster
COPIES_BLOCKED_MAX: Final = 128  # chunks tried in one step although nodes that they need are occupied
POLICY_LOOK_S: Final = 2.0  # between looks whether a replica count was changed
POLICY_BLOCKS_PER_STEP: Final = 200  # of files, whose wishes are carried out at once
MOVES_MAX: Final = 32  # copies that only improve where replicas are
MOVES_QUEUE_MAX: Final = 10_000  # the rest is found by the next scan
REBALANCE_PAUSE_S: Final = 30.0  # between rounds that make nodes equally full
NODE_JUDGE_S: Final = 5.0  # between looks which nodes are slow
NODE_JUDGEMENTS: Final = 3  # so many alike in a row count
NODE_SLOW_FACTOR: Final = 8  # times the median of the other nodes
NODE_SLOW_MIN_S: Final = 0.1  # a store that takes less is never slow
NODE_FAULTS_MAX: Final = 64  # chunks lost or damaged within NODE_FAULTS_S: the node is failing
NODE_FAULTS_S: Final = 3_600.0
NODE_FAULTS_FACTOR: Final = 4  # and so many times more than at the others
DISKS_TEXT_MAX_BYTES: Final = 255  # of what a node says about one disk
REPAIR_QUEUE_MAX: Final = 100_000  # known candidates; the rest is found by the next scan
TASKS_PER_HEARTBEAT_MAX: Final = 64
TASKS_QUEUED_MAX: Final = 4_096  # per node
RESULTS_PER_HEARTBEAT_MAX: Final = 1_024
DELETE_BATCH_MAX: Final = 512  # chunks per delete task
NODE_TEXT_MAX_BYTES: Final = 255  # uuid, address, rack and so on of a datanode
SCAN_STEP_CHUNKS: Final = 500  # chunk records read in one snapshot
REPLICA_CHANGES_PER_COMMIT: Final = 400  # chunk records changed in one transaction
GARBAGE_IN_FLIGHT_MAX: Final = 10_000  # chunks between marking and removal
REPORT_CHUNKS_MAX: Final = 16_000_000  # of one datanode
TASK_DEADLINE_S: Final = 60.0  # without a result the work is planned anew
BUSY_HEARTBEAT_S: Final = 0.2  # while tasks wait for a node or run there
SCAN_PAUSE_MIN_S: Final = 10.0  # between looks at every chunk record for missing replicas
SCAN_PAUSE_DRAINING_S: Final = 2.0  # the same, while somebody may watch a node being drained
SCAN_PAUSE_DRAINING_FACTOR: Final = 4
SCAN_PAUSE_MAX_S: Final = 3_600.0
SCAN_PAUSE_FACTOR: Final = 50  # pause for so many times as long as the look took
CHUNK_REPORT_INTERVAL_S: Final = 6 * 3_600.0
SAFE_MODE_SHARE: Final = 0.5  # of the nodes must have reported, once the others had time to
FSCK_PROBLEMS_MAX: Final = 1_000
FSCK_MENDS_MAX: Final = 100_000  # findings that one round of a repair takes on
FSCK_PATH_MAX_PARTS: Final = 4_096  # of a path that a report names
FSCK_ROUNDS_MAX: Final = 8  # checks and repairs in turn, as one repair may uncover another fault
FSCK_VERIFY_CHUNKS: Final = 32  # per task, so that a slow disk answers in time
FSCK_REPORTS_DEADLINE_S: Final = 60.0  # for the chunk reports that a check asks for

# ------------------------------------------------------------------ datanode
STORE_BATCH_MAX_BYTES: Final = 8 * MIB  # small chunks that share one fdatasync
PACK_DEAD_PERCENT: Final = 50  # a pack with more dead bytes is compacted
TRANSFERS_PER_STREAM_MAX: Final = 1_024  # open at once; more are refused
PEER_QUEUE_MAX_BYTES: Final = 64 * MIB  # frames that wait for one replica, of all transfers
REPLICA_PROGRESS_S: Final = 5.0  # a replica that acknowledges nothing for so long is dropped
PEER_RETRY_S: Final = 1.0  # pause before a failed peer is tried again
TRANSFER_IDLE_S: Final = 60.0  # a stored chunk of which nothing arrives for so long is given up
RETRIEVALS_CONCURRENT_MAX: Final = 4  # of one stream
RETRIEVALS_QUEUED_MAX: Final = 256
DATANODE_THREADS: Final = 8
TASKS_CONCURRENT_MAX: Final = 4  # of the coordinator's tasks
REPORT_PAGE_CHUNKS: Final = 4_096
CORRUPT_REPORT_MAX: Final = 1_024  # chunks named in one heartbeat
VERIFY_CHUNKS_MAX: Final = 256  # of one task
COPY_WINDOW_BYTES: Final = 2 * MIB  # of one chunk, read and not yet acknowledged by a target
MAINTAIN_S: Final = 30.0  # between looks for packs to compact
SCRUB_PAUSE_S: Final = 60.0  # between two passes over all chunks
DISKS_MAX: Final = 64  # data directories of one datanode
DISK_PROBE_S: Final = 10.0  # between looks whether a disk can be written
DISK_PROBE_PAUSE_S: Final = 1.0  # at least, between looks after errors
DISK_ERRORS_MAX: Final = 16  # input/output errors within DISK_ERRORS_S: the disk takes no more chunks
DISK_ERRORS_S: Final = 60.0
LOCAL_CONNECTIONS_MAX: Final = 256  # to the side socket, of clients and peers of this host
SHARED_BUFFER_BYTES: Final = STORE_WINDOW_BYTES  # memory for frames on their way to a datanode of this host
SHARED_UNIT_BYTES: Final = 64 * KIB  # a frame takes as many as it needs; a smaller one travels as it is
COORDINATOR_RETRY_S: Final = 1.0  # pause after every coordinator of the list has failed

# ------------------------------------------------------------------ changes under WRITE leases
JOURNAL_MAX_ENTRIES: Final = (
    4_096  # changes of one mount that are not settled; more are made at the coordinator
)
JOURNAL_BATCH_ENTRIES: Final = 256  # sent in one message
JOURNAL_BATCH_MAX_BYTES: Final = 256 * KIB  # about, and at least one entry
JOURNAL_AGE_S: Final = 0.5  # an entry is sent after so long, if nobody waits for it before
UPGRADE_WINDOW_S: Final = 2.0  # two changes of a directory within it: ask for its WRITE lease
UPGRADE_PAUSE_MIN_S: Final = 1.0  # after a refusal, doubled up to the next
UPGRADE_PAUSE_MAX_S: Final = 30.0
UPGRADE_CHILDREN_MAX: Final = 4_096  # leases asked for along with a directory's
INODES_RESERVED_AT_ONCE: Final = 1_024

# ------------------------------------------------------------------ client memory
DIRTY_MAX_BYTES: Final = 192 * MIB
READ_CACHE_MAX_BYTES: Final = 128 * MIB
COMPACT_QUIET_S: Final = 30.0  # a block is compacted when it was not written for so long
COMPACTIONS_WAITING_MAX: Final = 65_536  # blocks; more are left as they are
RETRIEVE_WINDOW_BYTES: Final = 64 * MIB  # asked for and not yet arrived, all datanodes together
HASH_INLINE_MAX_BYTES: Final = 64 * KIB  # hashing less is cheaper than handing it to a thread
SESSION_INBOX_MESSAGES: Final = 256  # received and not yet handled, before reading stops

# ------------------------------------------------------------------ reading chunk files of this host
LOCATE_CHUNKS_MAX: Final = 64  # places one request asks for; each may bring a descriptor
LOCATE_AHEAD_CHUNKS_MAX: Final = 128  # places of neighbours in packs that come along with a reply
LOCATE_AHEAD_BYTES: Final = 64 * KIB  # of a pack, before and behind one chunk, looked through for neighbours
LOCATE_MESSAGE_MAX_BYTES: Final = 64 * KIB
LOCATE_PATIENCE_S: Final = 0.5  # then the bytes are asked for instead
LOCAL_FILES_MAX: Final = 1_024  # descriptors one client holds; a quarter of what it may open, if that is less
LOCAL_PLACES_MAX: Final = 16_384
LOCAL_FILE_MAX_S: Final = 60.0  # a descriptor is used for so long, then its disk space may be wanted
LOCAL_RETRY_S: Final = 5.0  # pause before a side socket that failed is tried again
LOCAL_THREADS: Final = 4
LOCAL_INLINE_MAX_BYTES: Final = 256 * KIB  # read at once when the kernel has the pages; more by a thread

# ------------------------------------------------------------------ reading ahead
READ_AHEAD_MAX_BYTES: Final = 32 * MIB  # fetched ahead of one reader
READ_AHEAD_STREAMS_MAX: Final = 4  # followed in one open file
EXTENT_BLOCKS_AHEAD: Final = 256  # located in one request ahead of a reader
PREFETCH_FILE_MAX_BYTES: Final = 256 * KIB  # a small file: fetched because its neighbours are read
PREFETCH_FIRST_BYTES: Final = 256 * KIB  # of neighbours, before it is known whether they are wanted
PREFETCH_UNUSED_MAX_BYTES: Final = 16 * MIB  # of one directory's files, fetched and not yet read
PREFETCH_CONCURRENT_MAX: Final = 32  # small files fetched at a time
WALKS_MAX: Final = 64  # directories whose use is watched
WALK_LISTING_MAX: Final = 16_384  # entries of one of them that are remembered in order
WALK_ENTRIES_MAX: Final = 100_000  # and of all of them, before another one is watched
WALK_UNUSED_ENTRIES_MAX: Final = 4_096  # of one directory, fetched and not yet looked up
WALK_UNUSED_LISTINGS_MAX: Final = 64  # of directories, fetched and not yet visited

# ------------------------------------------------------------------ disk read cache
CACHE_SIZE_MIN_BYTES: Final = 256 * MIB
CACHE_SIZE_BYTES: Final = 4 * GIB  # unless another size is given
CACHE_WAITING_MAX_BYTES: Final = 32 * MIB  # fetched and not yet written; more is not kept
CACHE_DEADLINE_S: Final = 2.0  # for reading a chunk from it
CACHE_REST_S: Final = 30.0  # it is not used after its disk has failed or hung

# ------------------------------------------------------------------ mounts
FUSE_DEADLINE_S: Final = 90.0  # for one file system call, whatever happens
FUSE_FLUSH_DEADLINE_S: Final = 600.0  # for calls that may have to write out all dirty data
FUSE_TICK_S: Final = 0.25  # between looks for calls that are overdue, and for releases kept for later
FUSE_REQUESTS_AT_ONCE: Final = 16  # handled one after another before other tasks run
FUSE_LINGER_NS: Final = 100_000  # for the next call of a caller that was answered at once
FUSE_LINGER_RARELY: Final = 63  # calls between two attempts when it never comes
INODES_KNOWN_MAX: Final = 131_072  # about; for more, the kernel is asked to give references back
ENTRIES_KNOWN_MAX: Final = 262_144  # of all directories, likewise
LISTED_WITH_ATTRIBUTES_MAX: Final = 32_768  # of one listing; of more the kernel gets names only
LISTING_WINDOW_ENTRIES: Final = 16_384  # kept of a listing; what lies before is asked for again
ANSWERS_INODES_MAX: Final = 131_072  # whose attributes are kept where no Python is needed to answer
ANSWERS_ENTRIES_MAX: Final = 262_144  # of directories, the same
ANSWERS_CONTENTS_MAX: Final = 32_768  # parts of files, of up to a block, whose place is kept there
INTERRUPT_POLL_S: Final = 0.2  # a caller that handled a signal may still get a fatal one
NOTIFIER_THREADS: Final = 8  # directories or inodes invalidated at a time
NOTIFIER_QUEUE_MAX: Final = 4_096  # callers that wait for an invalidation
MOUNT_CONNECT_S: Final = 15.0  # for the first answer of a coordinator
REMOUNT_DELAY_MIN_S: Final = 0.2  # a mount whose process died is mounted again between these two delays
REMOUNT_DELAY_MAX_S: Final = 30.0
REMOUNT_STABLE_S: Final = 60.0  # a mount that lasted so long starts again with the shortest delay
READ_AHEAD_BYTES: Final = 4 * MIB  # of the mount's backing device

assert FRAME_MAX_BYTES <= CHUNK_MAX_BYTES <= BLOCK_BYTES
assert CHUNK_MAX_BYTES % CHECKSUM_BLOCK_BYTES == 0
assert FRAME_MAX_BYTES % CHECKSUM_BLOCK_BYTES == 0
assert PACK_CHUNK_MAX_BYTES < CHUNK_MAX_BYTES < PACK_FILE_MAX_BYTES
assert REPLICATION_WINDOW_BYTES >= CHUNK_MAX_BYTES
assert GRPC_MESSAGE_MAX_BYTES > FRAME_MAX_BYTES + 64 * KIB
assert GRPC_MESSAGE_MAX_BYTES < HTTP2_WINDOW_BYTES < 1 << 31
assert FRAME_MAX_BYTES < HTTP2_FRAME_MAX_BYTES < 1 << 24
assert SLICES_COMPACT < BLOCK_BYTES // (4 * KIB) < SLICES_URGENT < SLICES_MAX
assert SLICES_MAX * 50 + 2 < VALUE_MAX_BYTES  # when each slice is of a chunk of its own
assert 2 * COMMIT_SLICES_MAX + 2 < SLICES_MAX  # a compacted block takes any commit
assert XATTR_VALUE_MAX_BYTES < VALUE_MAX_BYTES
assert EXTENT_BLOCKS_PER_STEP * 2 + 10 < TRANSACTION_MAX_KEYS
assert 2 * REAP_AT_ONCE_SLICES_MAX + 20 < STEP_KEYS_MAX
assert STEP_KEYS_MAX + 50 < TRANSACTION_MAX_KEYS
assert RETAG_STEP_ENTRIES * 2 + 10 + 2 * REALM_DEPTH_MAX < TRANSACTION_MAX_KEYS
assert STEP_VALUES_MAX_BYTES + 4 * VALUE_MAX_BYTES < TRANSACTION_MAX_BYTES
assert min(CLIENT_DOUBT_S, NODE_SUSPECT_S) / 2 > ATTENTION_GAP_S
assert COPY_STEP_INODES <= ID_RANGE
assert REMOVE_STEP_ENTRIES * 3 + 10 < STEP_KEYS_MAX  # name, inode, orphan
assert RECALL_MAX_S < FLUSH_ALL_S
assert READDIR_LIMIT_MAX * (512 + READDIR_FILE_SLICES_MAX * 128) < GRPC_MESSAGE_MAX_BYTES
assert EXTENTS_REPLY_SLICES_MAX * 128 + SLICES_MAX * 128 < GRPC_MESSAGE_MAX_BYTES
assert SESSION_HEARTBEAT_S * 3 < CLIENT_DOUBT_S < LEASE_S
assert NODE_HEARTBEAT_S * 2 < NODE_SUSPECT_S < NODE_DEAD_S
assert CLIENT_DOUBT_S / LEASE_S < TRUST_LEASES_MAX < 1
assert LEASE_S < RPC_DEADLINE_S < GARBAGE_GRACE_S
assert ENGINE_READ_S < SESSION_SILENCE_S  # clients wait while a look-up does
assert ENGINE_SILENCE_S < ENGINE_COMMIT_S
assert 2 * (DUMP_FRAME_BYTES + VALUE_MAX_BYTES) < GRPC_MESSAGE_MAX_BYTES
assert LEADERSHIP_RENEWALS * LEADERSHIP_PERCENT > 200  # one that fails leaves time for another
assert PLAN_REUSE_S < NODE_SUSPECT_S  # a node that has gone is met by failover, as with a fresh plan
assert LEASE_S < RECALL_MAX_S <= RPC_DEADLINE_S
assert REPLIES_PURGED_AT_ONCE + 2 < TRANSACTION_MAX_KEYS  # the session and its mark
assert LEASES_RECALLED_AT_ONCE < LEASES_PER_SESSION_MAX
assert DIRTY_AGE_MAX_S < LEASE_S
assert JOURNAL_AGE_S < DIRTY_AGE_MAX_S / 2
assert JOURNAL_BATCH_ENTRIES * 4 <= JOURNAL_MAX_ENTRIES
assert JOURNAL_BATCH_MAX_BYTES * 4 < GRPC_MESSAGE_MAX_BYTES
assert JOURNAL_BATCH_ENTRIES <= BATCH_ENTRIES_MAX
assert BATCH_ENTRIES_MAX * (BATCH_DETAIL_MAX_BYTES + 48) < VALUE_MAX_BYTES  # the recorded reply
assert STEP_VALUES_MAX_BYTES + 6 * VALUE_MAX_BYTES < TRANSACTION_MAX_BYTES  # and a batch's recorded reply
assert UPGRADE_PAUSE_MIN_S < UPGRADE_PAUSE_MAX_S
assert INODES_RESERVED_AT_ONCE <= ID_RANGE
assert PACK_CHUNK_MAX_BYTES <= FRAME_MAX_BYTES  # a small chunk may travel in one frame
assert STORE_BATCH_MAX_BYTES >= FRAME_MAX_BYTES
assert PEER_QUEUE_MAX_BYTES > REPLICATION_WINDOW_BYTES
assert REPLICA_PROGRESS_S < RPC_DEADLINE_S < TRANSFER_IDLE_S
assert REPORT_PAGE_CHUNKS * 64 < GRPC_MESSAGE_MAX_BYTES
assert SESSION_HEARTBEAT_S * 2 < SESSION_SILENCE_S < CLIENT_DOUBT_S
assert HTTP2_CONNECT_S < WELCOME_DEADLINE_S
assert RECONNECT_MIN_S < RECONNECT_MAX_S < LEASE_S - CLIENT_DOUBT_S
assert TRANSFER_PROGRESS_S < TRANSFER_DEADLINE_S < GARBAGE_GRACE_S
assert HEDGE_MIN_S < HEDGE_MAX_S < TRANSFER_PROGRESS_S
assert BUSY_HEARTBEAT_S < NODE_HEARTBEAT_S < TASK_DEADLINE_S < GARBAGE_GRACE_S
assert COPIES_PER_NODE_MAX < TASKS_PER_HEARTBEAT_MAX
assert COPIES_PER_NODE_MAX_BYTES >= CHUNK_MAX_BYTES
assert REPLICA_CHANGES_PER_COMMIT * 2 < TRANSACTION_MAX_KEYS
assert TRASH_LOOK_S < TRASH_LOOK_IDLE_S
assert max(TRASH_EXPIRED_AT_ONCE, TRASH_PATH_PARTS_MAX) * 10 < STEP_KEYS_MAX
assert REPLICAS_MAX < 0x80  # records.Wish keeps it in seven bits
assert MOVES_MAX < COPIES_MAX
assert SCAN_PAUSE_DRAINING_S < SCAN_PAUSE_MIN_S < SCAN_PAUSE_MAX_S < CHUNK_REPORT_INTERVAL_S
assert max(STORE_WINDOW_BYTES, REPLICATION_WINDOW_BYTES) <= SHARED_BUFFER_BYTES
assert FRAME_MAX_BYTES % SHARED_UNIT_BYTES == 0 == SHARED_BUFFER_BYTES % SHARED_UNIT_BYTES
assert LOCATE_CHUNKS_MAX <= 253  # SCM_MAX_FD
assert (
    LOCATE_CHUNKS_MAX * (CHUNK_MAX_BYTES // CHECKSUM_BLOCK_BYTES * 4 + 80) + LOCATE_AHEAD_CHUNKS_MAX * 96
    < LOCATE_MESSAGE_MAX_BYTES
)
assert LOCATE_CHUNKS_MAX < LOCAL_FILES_MAX <= LOCAL_PLACES_MAX
assert CHECKSUM_BLOCK_BYTES < LOCAL_INLINE_MAX_BYTES < CHUNK_MAX_BYTES
assert LOCAL_FILE_MAX_S < GARBAGE_GRACE_S
assert LOCATE_PATIENCE_S < HEDGE_MAX_S < LOCAL_RETRY_S < NODE_PENALTY_S
assert CHUNK_MAX_BYTES < READ_AHEAD_MAX_BYTES < READ_CACHE_MAX_BYTES
assert PREFETCH_FIRST_BYTES < PREFETCH_UNUSED_MAX_BYTES < READ_CACHE_MAX_BYTES
assert PREFETCH_FILE_MAX_BYTES <= PACK_CHUNK_MAX_BYTES
assert READDIR_LIMIT_MAX < WALK_UNUSED_ENTRIES_MAX < WALK_LISTING_MAX < WALK_ENTRIES_MAX
assert FUSE_TICK_S < LEASE_S - CLIENT_DOUBT_S
assert INODES_KNOWN_MAX < LEASES_PER_SESSION_MAX
assert READDIR_LIMIT_MAX * 2 < LISTING_WINDOW_ENTRIES < LISTED_WITH_ATTRIBUTES_MAX < INODES_KNOWN_MAX
# A mount stays below 600 MiB: 80 of them are the program itself.
assert INODES_KNOWN_MAX * 1024 + ENTRIES_KNOWN_MAX * 140 + DIRTY_MAX_BYTES + READ_CACHE_MAX_BYTES < 500 * MIB
assert ANSWERS_INODES_MAX * 168 + ANSWERS_ENTRIES_MAX * 96 < 64 * MIB
assert ANSWERS_CONTENTS_MAX * (112 + CHUNK_MAX_BYTES // CHECKSUM_BLOCK_BYTES * 4) < 16 * MIB
assert CHUNK_MAX_BYTES * 64 <= CACHE_SIZE_MIN_BYTES <= CACHE_SIZE_BYTES
assert CHUNK_MAX_BYTES < CACHE_WAITING_MAX_BYTES
assert CACHE_DEADLINE_S < RPC_DEADLINE_S
assert RPC_DEADLINE_S < FUSE_DEADLINE_S < FUSE_FLUSH_DEADLINE_S
assert REMOUNT_DELAY_MIN_S < REMOUNT_DELAY_MAX_S < REMOUNT_STABLE_S
assert DISK_PROBE_PAUSE_S < DISK_PROBE_S < DISK_ERRORS_S
