"""Probes of labels of real recordings, one `jaxasr probe` each."""
