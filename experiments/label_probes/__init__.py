"""Probes labels of real recordings with one run of `jaxasr probe` per label."""
