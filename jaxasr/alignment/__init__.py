"""Word times from cross-attention: of a transcript, of a given text, and the choice of heads."""
