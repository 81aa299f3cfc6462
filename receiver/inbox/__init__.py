"""The durable inbox: SQLite, one process, one writer."""
