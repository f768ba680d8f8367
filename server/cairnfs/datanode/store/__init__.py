"""The chunk store: where a datanode keeps its bytes."""
