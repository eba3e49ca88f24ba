"""Computes effects of components, by attribution, direct logit attribution and path patching."""
