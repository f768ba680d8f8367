"""Settings from flags, environment and one TOML file: checked, and traceable to their source."""
