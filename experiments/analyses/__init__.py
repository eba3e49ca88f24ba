"""Analyses behind the commands, callable from Python: lenses, scan, patch and probe."""
