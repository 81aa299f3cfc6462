"""The gateway: a request goes in, is run in the background, and its end is told."""
