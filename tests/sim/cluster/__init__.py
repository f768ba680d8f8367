"""A whole cluster in one process: real coordinators, datanodes and clients on simulated machines."""
