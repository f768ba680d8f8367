"""The file system core: caches, leases, write-behind and reads, without FUSE and without gRPC."""
