"""Measures speed, memory and agreement against other libraries; not part of the wheel."""
