"""The datanode: stores chunks and copies them to its peers."""
