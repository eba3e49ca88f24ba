"""One file for each claim of the paper: `e7_encoder_lens.py` is the study E7. `docs/new_experiment.md` writes one."""
