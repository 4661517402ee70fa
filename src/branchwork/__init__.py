"""Branchwork: a language for programs that talk to language models, and the runtime that serves them."""
