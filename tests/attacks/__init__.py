"""Attacks on readers of files: quick in pytest, long by `python -m tests.attacks.NAME`."""
