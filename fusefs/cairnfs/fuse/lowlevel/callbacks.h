/* Requests that pyfuse3 does not know, handed to Python. 0: taken, Python will reply; else C replies EIO. */
int cairn_getlk(void *req, uint64_t ino, uint64_t owner, int type, int64_t start, int64_t end, int pid);
int cairn_setlk(void *req, uint64_t ino, uint64_t fh, uint64_t owner, int type, int64_t start, int64_t end,
                int pid, int wait);
int cairn_flock(void *req, uint64_t ino, uint64_t owner, int operation);
int cairn_fallocate(void *req, uint64_t fh, int mode, int64_t offset, int64_t length);
int cairn_lseek(void *req, uint64_t fh, int64_t offset, int whence);
int cairn_copy_file_range(void *req, uint64_t source_fh, int64_t source_offset, uint64_t target_fh,
                          int64_t target_offset, size_t length);
void cairn_interrupted(uint64_t request, int pid);
