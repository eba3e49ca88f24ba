"""One file per command of `jaxasr`."""
