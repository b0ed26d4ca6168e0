"""Store: what was read once, on disk."""
