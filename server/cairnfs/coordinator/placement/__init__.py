"""Where chunks go: selectors as plug-ins."""
