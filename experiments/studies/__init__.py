"""One file per experiment (`e1_...` of the paper, `b1_...` beyond it), and their common code."""
