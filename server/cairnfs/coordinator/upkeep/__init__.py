"""What keeps stored data as it should be: reports, repair, garbage collection, fsck."""
