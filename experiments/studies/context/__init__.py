"""Parts of study E5, which tests whether context overrides the spoken word."""
