"""The conformance kit: deliveries, good and bad, against any receiver in any language."""
