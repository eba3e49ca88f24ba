"""Compares the speed, memory and results of jaxasr with other libraries.

This package is not part of the wheel.
"""
