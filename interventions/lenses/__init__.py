"""Predicts tokens from each decoder layer, and generates text from each encoder layer."""
