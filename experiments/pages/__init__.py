"""HTML pages and terminal tables of results."""
