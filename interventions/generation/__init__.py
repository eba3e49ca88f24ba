"""Sweeps whose metric reads generated text instead of one teacher-forced pass."""
