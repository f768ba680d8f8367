"""A whole cluster on one machine: what `cairnfs up` starts and `cairnfs down` stops."""
