"""Statistics of results: intervals, permutation tests, summaries and agreement of rankings."""
