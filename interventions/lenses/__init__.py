"""Lenses: what each layer of the decoder predicts, and what the decoder generates from each encoder layer."""
