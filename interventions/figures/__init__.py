"""Figures of sweeps and probes, drawn with matplotlib without a display."""
