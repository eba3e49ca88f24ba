"""Contains one file per experiment, and the code that experiments share.

Files named `e1_...` repeat the paper's experiments; files named `b1_...` extend the paper.
"""
