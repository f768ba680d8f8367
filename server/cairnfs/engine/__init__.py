"""The metadata engines: ordered transactional key-value stores, and group commit."""
