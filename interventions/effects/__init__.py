"""Estimates and exact values of single effects: attribution patching, direct logits, paths."""
