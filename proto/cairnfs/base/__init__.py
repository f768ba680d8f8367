"""What every CairnFS process shares: errors, bounds, clocks, checksums, logs, settings."""
