"""The inbox on PostgreSQL: what differs from SQLite."""
