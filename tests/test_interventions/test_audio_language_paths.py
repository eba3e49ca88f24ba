"""Path patching of an audio language model equals patching by hand."""

import jax
import numpy as np
import pytest
from audio_language import TINY, tiny_mel, tiny_model

import interventions as iv
import jaxasr
from interventions.effects.paths import RECEIVERS, SENDERS, Node, all_receivers, nodes, path_patch

N_BEFORE, N_AFTER = 2, 3  # text tokens before and after the audio
LENGTHS = np.array([30, 29], np.int32)  # mel frames
COLUMN = -2
METRIC = iv.logit_diff(3, 8, position=COLUMN)
SENDING = [
    Node("decoder.attn.z", 0, 1),
    Node("decoder.mlp_out", 0),
    Node("decoder.embed"),
    Node("encoder.attn.z", 1, 2),
    Node("encoder.mlp_out", 2),
]


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def runs(model):
    """Returns two runs with different audio and text, so that every component differs."""
    config, rng = model.config, np.random.default_rng(0)
    n_audio = 7 if config.family == "qwen2_audio" else config.n_audio_tokens
    mel = tiny_mel(config, LENGTHS)

    def make_run(mel):
        text = rng.integers(0, 90, (2, N_BEFORE + n_audio + N_AFTER)).astype(np.int32)
        text[:, N_BEFORE : N_BEFORE + n_audio] = config.audio_token
        return iv.Run(text, mel, lengths=LENGTHS)

    return make_run(mel), make_run(-0.7 * mel[::-1])


def score(logits):
    return np.asarray(METRIC(np.asarray(logits)[:, COLUMN][:, [3, 8]]))


def score_with_sender_patched(model, target, source, node):
    """Scores the target with the sender patched by an edit."""
    readout = jaxasr.select(node.site)
    in_encoder = node.site.startswith("encoder.")
    if in_encoder:
        _, acts = model.encode(source.mel, readout=readout, lengths=LENGTHS)
    else:
        _, acts = source.decode(model, readout=readout)
    patch = iv.only(iv.Patch(acts[node.site]), layers=node.layer, heads=node.head)
    if not in_encoder:
        return score(target.decode(model, {node.site: patch})[0])
    memory, _ = model.encode(target.mel, {node.site: patch}, lengths=LENGTHS)
    return score(model.decode(target.tokens, memory)[0])


def test_all_receivers_together_equal_patching_the_sender(model, runs):
    receivers = [all_receivers(model.config)]
    effects = path_patch(model, *runs, senders=SENDING, receivers=receivers, metric=METRIC)
    for node in SENDING:
        whole = score_with_sender_patched(model, *runs, node)
        assert np.abs(whole - effects.baseline).max() > 1e-3
        np.testing.assert_allclose(
            effects.sel(sender=str(node)).squeeze("receiver"), whole, atol=2e-5
        )


def test_single_paths_equal_receivers_patched_by_hand(model, runs):
    target = runs[0]
    sender = Node("decoder.attn.z", 0, 3)
    receivers = [Node(f"decoder.{site}", 1) for site in ("attn.k", "mlp.pre", "mlp.up")]
    receivers += [Node("decoder.attn.q", 1, 2), Node("decoder.attn.v", 1, 0)]
    receivers.append(Node("decoder.logits"))
    effects = path_patch(model, *runs, senders=[sender], receivers=receivers, metric=METRIC)
    streams = "decoder.attn.z", "decoder.resid_pre", "decoder.resid_mid", "decoder.resid_post"
    acts = target.decode(model, readout=jaxasr.select(*streams))[1]
    z = [run.decode(model, readout=jaxasr.select(streams[0]))[1][streams[0]] for run in runs]
    block = jax.tree.map(lambda x: x[1], model.decoder.blocks)
    kernel = model.decoder.blocks.attn.out.kernel[...][0].reshape(4, -1, 28)[3]
    delta = np.asarray(z[1] - z[0])[0, :, :, 3] @ np.asarray(kernel)
    for node in receivers[:-1]:
        part, name = node.site.split(".")[1:]
        stream = "decoder.resid_mid" if part == "mlp" else "decoder.resid_pre"
        x = getattr(block, f"{part}_ln")(acts[stream][1] + delta)
        layers = {"q": "query", "k": "key", "v": "value", "pre": "gate", "up": "up"}
        value = getattr(getattr(block, part), layers[name])(x)
        value = value if part == "mlp" else block.attn.split_heads(value)
        edit = iv.only(iv.Patch(value), layers=1, heads=node.head)
        expected = score(target.decode(model, {node.site: edit})[0])
        assert np.abs(expected - effects.baseline).max() > 1e-5
        np.testing.assert_allclose(
            effects.sel(receiver=str(node)).squeeze("sender"), expected, atol=2e-5
        )
    last = model.decoder.ln(acts["decoder.resid_post"][-1] + delta)
    np.testing.assert_allclose(
        effects.sel(receiver="decoder.logits").squeeze("sender"),
        score(model.decoder.unembed(last)),
        atol=2e-5,
    )


def test_the_straight_path_from_the_encoder_is_the_audio_without_the_rest(model, runs):
    """Only the keys of one layer read the audio that the sender changes."""
    target, _ = runs
    sender, receiver = Node("encoder.mlp_out", 2), Node("decoder.attn.k", 0)
    effects = path_patch(model, *runs, senders=[sender], receivers=[receiver], metric=METRIC)
    site = "encoder.mlp_out"
    _, acts = model.encode(runs[1].mel, readout=jaxasr.select(site), lengths=LENGTHS)
    patch = {site: iv.only(iv.Patch(acts[site]), layers=2)}
    memory, _ = model.encode(target.mel, patch, lengths=LENGTHS)
    keys = model.decode(target.tokens, memory, readout=jaxasr.select(receiver.site))[1]
    edit = iv.only(iv.Patch(keys[receiver.site]), layers=0)
    expected = score(target.decode(model, {receiver.site: edit})[0])
    assert np.abs(expected - effects.baseline).max() > 1e-5
    np.testing.assert_allclose(effects.values.squeeze(), expected, atol=2e-5)


def test_the_target_as_source_changes_nothing(model, runs):
    receivers = [all_receivers(model.config)]
    target = runs[0].encode(model)
    effects = path_patch(model, target, target, senders=SENDING, receivers=receivers, metric=METRIC)
    np.testing.assert_allclose(effects - effects.baseline, 0, atol=5e-6)


def test_components_are_those_of_the_family(model, runs):
    config = model.config
    present = {node.site for node in all_receivers(config)}
    assert present == {site for site in RECEIVERS if "cross_attn" not in site}
    assert len(nodes(config, "decoder.attn.k")) == 2 * config.n_text_kv_head
    options = {"receivers": [Node("decoder.logits")], "metric": METRIC}
    assert "decoder.cross_attn.z" in SENDERS
    with pytest.raises(ValueError, match="Unknown sender"):
        path_patch(model, *runs, senders=[Node("decoder.cross_attn.z", 0)], **options)
    fewer = runs[0].replace(tokens=runs[0].tokens % 90)
    with pytest.raises(ValueError, match="expected the audio token 98"):
        path_patch(model, fewer, fewer, senders=[Node("decoder.embed")], **options)
