"""Writers that keep ledgers of what was acknowledged, for runs under faults."""
