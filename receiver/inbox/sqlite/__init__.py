"""The inbox in a SQLite file of this process alone."""
