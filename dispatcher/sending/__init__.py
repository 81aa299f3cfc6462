"""Sending: one POST to a peer that is not trusted, its connections, names and answers."""
