"""Backends that are someone else's API: the same programs, over HTTP."""
