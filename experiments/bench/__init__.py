"""Compares the speed, memory and results of jaxasr with those of other libraries.

"Ours" is jaxasr, and "theirs" is the other library. Each library runs in a separate process
(`worker`). The wheel does not contain this package.
"""
