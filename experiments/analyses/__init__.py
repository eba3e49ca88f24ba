"""Contains the analyses that the commands run, as functions for Python programs."""
