"""Provides recordings of speech and their labels."""
