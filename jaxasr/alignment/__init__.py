"""Word times from cross-attention, of a transcript or of a given text, and the choice of heads."""
