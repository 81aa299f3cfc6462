"""The store on SQLite: what differs from PostgreSQL."""
