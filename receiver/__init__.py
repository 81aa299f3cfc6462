"""The receiver: verifies signed completions and handles each one once.

``verify`` and its companions need the standard library alone; ``receiver.app`` is the service.
"""

from receiver.signature import SignatureError, Verified, generate_secret, signed_headers, verify

__all__ = ["SignatureError", "Verified", "generate_secret", "signed_headers", "verify"]
