"""Finds word times from cross-attention, and chooses the heads that follow the speech."""
