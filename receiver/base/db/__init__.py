"""Databases: group commit, migrations, SQLite and PostgreSQL."""
