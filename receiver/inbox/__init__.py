"""The durable inbox, on SQLite (one process) or PostgreSQL (several replicas)."""
