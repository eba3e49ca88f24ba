"""Path patching equals patching the sender, or receivers that are computed again by hand."""

import jax
import numpy as np
import pytest
from golden.tiny import tiny_inputs, uniform

import jaxasr
from interventions import Run
from interventions.edits import Patch, only
from interventions.effects.paths import Node, all_receivers, nodes, path_patch
from interventions.metrics import logit_diff

METRIC = logit_diff(3, 8, position=3)


@pytest.fixture(scope="module")
def runs(tiny_model):
    """Returns two runs with different audio and text, so that every component differs."""
    mel, tokens = tiny_inputs(tiny_model.config, 2, 5)
    return Run(mel=mel, tokens=tokens), Run(mel=uniform(5, *mel.shape), tokens=(tokens + 17) % 101)


def score(logits):
    return np.asarray(METRIC(np.asarray(logits)[:, 3][:, [3, 8]]))


def acts(model, run, *sites):
    encoder_sites, decoder_sites = (
        [site for site in sites if site.startswith(stack)] for stack in ("encoder", "decoder")
    )
    encoder_acts = model.encode(run.mel, readout=jaxasr.select(*encoder_sites))[1]
    return encoder_acts | run.decode(model, readout=jaxasr.select(*decoder_sites))[1]


def score_with_sender_patched(model, target, source, node):
    """Scores the target with the sender patched by an edit."""
    edits = {
        node.site: only(
            Patch(acts(model, source, node.site)[node.site]), layers=node.layer, heads=node.head
        )
    }
    if node.site.startswith("decoder"):
        return score(target.decode(model, edits)[0])
    return score(model.decode(target.tokens, model.encode(target.mel, edits)[0])[0])


DECODER_SENDERS = [
    Node("decoder.attn.z", 0, 1),
    Node("decoder.cross_attn.z", 1, 4),
    Node("decoder.mlp_out", 0),
]
ENCODER_SENDERS = [Node("encoder.attn.z", 1, 2), Node("encoder.mlp_out", 2)]


def test_all_receivers_together_equal_patching_the_sender(tiny_model, runs):
    target, source = runs
    senders = [*DECODER_SENDERS, Node("decoder.embed"), *ENCODER_SENDERS]
    effects = path_patch(
        tiny_model,
        target,
        source,
        senders=senders,
        receivers=[all_receivers(tiny_model.config)],
        metric=METRIC,
    )
    assert effects.dims == ("example", "sender", "receiver")
    for node in senders:
        whole = score_with_sender_patched(tiny_model, target, source, node)
        assert np.abs(whole - effects.baseline).max() > 1e-3
        np.testing.assert_allclose(
            effects.sel(sender=str(node)).squeeze("receiver"), whole, atol=5e-6
        )


def sender_delta(model, target, source, node):
    """Computes the difference of the sender's output between the runs, Δz·W_O, in NumPy."""
    stack, name = node.site.split(".", 1)
    z = [
        np.asarray(acts(model, run, node.site)[node.site])[node.layer, :, :, node.head]
        for run in (source, target)
    ]
    kernel = np.asarray(getattr(getattr(model, stack).blocks, name[:-2]).out.kernel[...])[
        node.layer
    ]
    return (z[0] - z[1]) @ kernel.reshape(-1, z[0].shape[-1], kernel.shape[-1])[node.head]


def layer_of(part, layer):
    return jax.tree.map(lambda x: x[layer], part)


# Receivers, each with the site of the residual stream that it reads.
RECEIVERS_AND_STREAMS = [
    (Node("decoder.attn.q", 1, 3), "decoder.resid_pre"),
    (Node("decoder.attn.k", 1, 0), "decoder.resid_pre"),
    (Node("decoder.attn.v", 1, 2), "decoder.resid_pre"),
    (Node("decoder.cross_attn.q", 1, 4), "decoder.resid_mid"),
    (Node("decoder.mlp.pre", 1), "decoder.resid_mid_cross"),
]


def patch_receiver_by_hand(model, target, stream, node, delta):
    """Patches the receiver with its value on the altered stream, and scores the result."""
    x = acts(model, target, stream)[stream][node.layer] + delta
    block = layer_of(model.decoder.blocks, node.layer)
    part, name = node.site.removeprefix("decoder.").split(".")
    normed = getattr(block, f"{part}_ln")(x)
    if part == "mlp":
        value = block.mlp.fc1(normed)
    else:
        attn = getattr(block, part)
        value = attn.split_heads(
            getattr(attn, {"q": "query", "k": "key", "v": "value"}[name])(normed)
        )
    return score(
        target.decode(model, {node.site: only(Patch(value), layers=node.layer, heads=node.head)})[0]
    )


def test_single_paths_equal_receivers_patched_by_hand(tiny_model, runs):
    target, source = runs
    sender = Node("decoder.cross_attn.z", 0, 4)
    receivers = [node for node, _ in RECEIVERS_AND_STREAMS] + [Node("decoder.logits")]
    effects = path_patch(
        tiny_model, target, source, senders=[sender], receivers=receivers, metric=METRIC
    ).squeeze("sender")
    delta = sender_delta(tiny_model, target, source, sender)
    for node, stream in RECEIVERS_AND_STREAMS:
        hand = patch_receiver_by_hand(tiny_model, target, stream, node, delta)
        assert np.abs(hand - effects.baseline).max() > 1e-5
        np.testing.assert_allclose(effects.sel(receiver=str(node)), hand, atol=5e-6)
    x = acts(tiny_model, target, "decoder.resid_post")["decoder.resid_post"][-1] + delta
    straight = score(tiny_model.decoder.unembed(tiny_model.decoder.ln(x)))
    np.testing.assert_allclose(effects.sel(receiver="decoder.logits"), straight, atol=5e-6)


def test_paths_from_an_encoder_head_equal_keys_and_values_patched_by_hand(tiny_model, runs):
    target, source = runs
    sender, keys, values = (
        Node("encoder.attn.z", 1, 2),
        Node("decoder.cross_attn.k", 1, 3),
        Node("decoder.cross_attn.v", 0, 1),
    )
    effects = path_patch(
        tiny_model, target, source, senders=[sender], receivers=[keys, values], metric=METRIC
    ).squeeze("sender")
    last = acts(tiny_model, target, "encoder.resid_post")["encoder.resid_post"][-1]
    memory = tiny_model.memory(
        tiny_model.encoder.ln_post(last + sender_delta(tiny_model, target, source, sender))
    )
    for node, heads in ((keys, memory.k), (values, memory.v)):
        edit = only(Patch(np.swapaxes(heads, 2, 3)), layers=node.layer, heads=node.head)
        hand = score(target.decode(tiny_model, {node.site: edit})[0])
        assert np.abs(hand - effects.baseline).max() > 1e-5
        np.testing.assert_allclose(effects.sel(receiver=str(node)), hand, atol=5e-6)


def test_earlier_receivers_leave_the_baseline(tiny_model, runs):
    target, source = runs
    receivers = [
        Node("decoder.cross_attn.q", 1, 0),
        Node("decoder.attn.v", 0),
        Node("decoder.mlp.pre", 0),
        Node("encoder.mlp.pre", 1),
    ]
    effects = path_patch(
        tiny_model,
        target,
        source,
        senders=[Node("decoder.cross_attn.z", 1, 2)],
        receivers=receivers,
        metric=METRIC,
    )
    np.testing.assert_allclose(
        effects, np.broadcast_to(effects.baseline.values[:, None, None], effects.shape), atol=1e-6
    )
    # The values are bitwise equal, because all receivers share one pass.
    np.testing.assert_array_equal(effects, np.broadcast_to(effects[..., :1], effects.shape))


def test_the_target_as_source_changes_nothing(tiny_model, runs):
    target, _ = runs
    effects = path_patch(
        tiny_model,
        target,
        target,
        senders=DECODER_SENDERS,
        receivers=[all_receivers(tiny_model.config)],
        metric=METRIC,
    )
    np.testing.assert_allclose(
        effects, np.broadcast_to(effects.baseline.values[:, None, None], effects.shape), atol=1e-6
    )


def test_positions_restrict_the_sender(tiny_model, runs):
    target, source = runs
    node, to = Node("decoder.cross_attn.z", 1, 2), [all_receivers(tiny_model.config)]
    effects = path_patch(
        tiny_model, target, source, senders=[node], receivers=to, metric=METRIC, positions=[3]
    )
    edits = {
        node.site: only(
            Patch(acts(tiny_model, source, node.site)[node.site]), layers=1, heads=2, positions=3
        )
    }
    np.testing.assert_allclose(
        effects.squeeze(), score(target.decode(tiny_model, edits)[0]), atol=5e-6
    )


def test_nodes_are_counted_and_wrong_components_raise(tiny_model, runs):
    config, (target, source) = tiny_model.config, runs
    assert (
        len(nodes(config, "decoder.cross_attn.z", "encoder.mlp_out", "decoder.logits"))
        == 10 + 4 + 1
    )
    assert str(Node("decoder.attn.q", 1, 3)) == "decoder.attn.q 1.3"
    good = {"senders": DECODER_SENDERS, "receivers": [Node("decoder.logits")], "metric": METRIC}
    for change, message in (
        ({"senders": [Node("decoder.attn.q", 0, 0)]}, "Unknown sender"),
        ({"receivers": [Node("decoder.mlp_out", 0)]}, "Unknown receiver"),
        (
            {"senders": [Node("decoder.attn.z", 2, 0)]},
            "expected a layer below 2 and a head below 5",
        ),
        ({"senders": [Node("decoder.mlp_out", 1, 0)]}, "a head below 0"),
        ({"senders": [Node("decoder.mlp_out")]}, "expected a layer, got"),
        ({"receivers": []}, "at least one of each"),
    ):
        with pytest.raises(ValueError, match=message):
            path_patch(tiny_model, target, source, **(good | change))
    with pytest.raises(ValueError, match="do not line up"):
        path_patch(tiny_model, target, source.replace(tokens=source.tokens[:, :3]), **good)
