"""Edits: callables `(x, at) -> x` that change an activation at a site, with or without parameters."""
