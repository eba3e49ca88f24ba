"""Measurements against other implementations: `python -m experiments.bench NAME --help`."""
