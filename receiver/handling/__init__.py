"""Handling: whose turn it is, running the customer's code, and what came of it."""
