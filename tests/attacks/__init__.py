"""Attacks on readers of files: a few in pytest, many by `python -m tests.attacks.NAME`."""
