"""FUSE: the kernel side. Short handlers over cairnfs.vfs, and the supplement to pyfuse3."""
