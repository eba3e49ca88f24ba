"""Files: atomic writes, checked parts, labelled results, fingerprints and provenance."""
