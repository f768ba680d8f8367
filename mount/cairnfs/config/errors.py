"""The one exception of the configuration."""


class ConfigError(Exception):
    """A setting is unknown or wrong; the text is one line that names where it was given."""
