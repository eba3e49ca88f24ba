"""Lenses: predictions read from each decoder layer, and text generated from each encoder layer."""
