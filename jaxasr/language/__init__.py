"""Audio language models: an encoder, a projector and a language model that reads its output."""
