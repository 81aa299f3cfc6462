"""The dialects that jobs are spoken of in: their words for states, and what they say of an end.
Pure."""
