"""Attacks on readers of untrusted files: quick with fixed seeds in pytest, long by `python -m tests.attacks.NAME`."""
