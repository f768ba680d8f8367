"""Power cuts: what was not made durable is taken away, and the rest must still be right."""
