"""Mounting: the process behind one mount point, its supervisor and mount.cairnfs."""
