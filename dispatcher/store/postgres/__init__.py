"""The store on PostgreSQL: what differs from SQLite."""
