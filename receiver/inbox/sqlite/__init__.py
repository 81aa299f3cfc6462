"""The inbox on SQLite: what differs from PostgreSQL."""
