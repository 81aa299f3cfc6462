"""The interface, described: the OpenAPI document, its texts, and its page."""
