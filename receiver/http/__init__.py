"""The receiver over HTTP: its routes, the webhook and the admin routes."""
