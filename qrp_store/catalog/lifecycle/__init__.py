"""The life of an artifact: claimed, committed, retired, deleted."""
