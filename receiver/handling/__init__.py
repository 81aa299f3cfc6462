"""Handling: claim what is due, run the customer's code, settle what came of it."""
