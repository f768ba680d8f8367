"""Which datanodes there are, how they fare, and who has been told."""
