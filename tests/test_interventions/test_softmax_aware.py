"""The effect of changed keys equals that of attention computed again with these keys."""

import jax
import numpy as np
import pytest
from golden.tiny import uniform

from interventions.effects import softmax_aware

ATTEND = jax.jit(softmax_aware.attend)
KEY_EFFECT = jax.jit(softmax_aware.key_effect, static_argnums=6)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_key_effect_equals_replacing_each_group_of_keys(group, masked, scale):
    n_keys = 7
    # A large scale of the keys saturates the softmax.
    q, k, new, v, g = (
        uniform(i, 2, 7, 3, 5) * np.float32(scale if i in (1, 2) else 2) for i in range(5)
    )
    mask = (
        np.broadcast_to(np.tril(np.ones((7, n_keys), bool)), (2, 1, 7, n_keys)) if masked else None
    )
    before = np.asarray(ATTEND(q, k, v, mask))
    expected = []
    for start in range(0, n_keys, group):
        changed = (np.arange(n_keys) // group == start // group)[:, None, None]
        z = np.asarray(ATTEND(q, np.where(changed, new, k), v, mask))
        expected.append((g * (z - before)).sum((1, 3)))
    effect = KEY_EFFECT(q, k, new, v, g, mask, group)
    np.testing.assert_allclose(effect, np.stack(expected, 1), atol=2e-5 * scale, rtol=1e-4)
    of_all_keys = KEY_EFFECT(q, k, new, v, g, mask, n_keys)
    np.testing.assert_allclose(
        of_all_keys,
        softmax_aware.all_keys_effect(q, k, new, v, g, mask),
        atol=2e-5 * scale,
        rtol=1e-4,
    )
