"""The one exception of the local cluster."""


class LocalClusterError(Exception):
    """The local cluster cannot be started or stopped as asked; the text is one line for people."""
