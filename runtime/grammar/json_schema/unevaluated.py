"""`unevaluatedProperties` and `unevaluatedItems`."""
