"""Ranks decoder heads and layers by the loops of a user's recordings that they resolve."""
