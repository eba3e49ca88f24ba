"""Contains one file per experiment, and the code that experiments share.

Files named `e1_...`, `e2_...` repeat the experiments of arXiv 2508.15882 ("the paper"). Files named
`b1_...`, `b2_...` extend the paper.
"""
