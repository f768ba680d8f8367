"""Several data directories in one datanode: which belong to it, how they fare, and one store over all."""
