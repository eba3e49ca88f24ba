"""Probes labels of real recordings by one run of `jaxasr probe` per label and model."""
