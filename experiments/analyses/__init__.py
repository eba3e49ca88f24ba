"""Contains the analyses that the commands run. They can also be called from Python."""
