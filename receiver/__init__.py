"""The receiver: verifies signed completions and handles each one once."""
