"""The coordinator: metadata of the file system, sessions, leases, membership."""
