"""What a program's own tests need: backends that answer from a script, and a record of what was asked."""
