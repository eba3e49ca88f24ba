"""Makes two runs of the tiny model for tests of first-order estimates."""

import numpy as np
from golden.tiny import tiny_inputs, uniform

from interventions import Run
from interventions.metrics import logit_diff

METRIC = logit_diff(3, 8)


def runs(config, step):
    """Returns a target and a source whose mel differs from it by `step`."""
    mel, tokens = tiny_inputs(config, 2, 5)
    return Run(mel=mel, tokens=tokens), Run(
        mel=mel + np.float32(step) * uniform(5, *mel.shape), tokens=tokens
    )
