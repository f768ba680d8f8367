"""Writers that keep ledgers of what was acknowledged, and long runs of them under faults."""
