"""Activation patching: sweeps over layers, heads, positions and times as one compiled program."""
