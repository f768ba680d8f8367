"""POSIX behaviour, each case run on a local directory (the yardstick) and on a CairnFS mount."""
