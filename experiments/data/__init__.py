"""Recordings: corpora, selections, built-in and synthetic speech, labels."""
