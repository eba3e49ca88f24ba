"""States the claims of E6 about repetition loops."""

from typing import Any

from experiments.studies.claims import SECONDARY, Claim

_LOOPS: dict[str, Any] = {"unit": "%", "units": "sources of loops"}
_OURS: dict[str, Any] = {**_LOOPS, "family": SECONDARY}
_COST: dict[str, Any] = {
    "null": 0.02,
    "least": 0.02,
    "side": "below",
    "unit": "%",
    "units": "speakers",
    "family": SECONDARY,
}
_PARTS_TEST = (
    "per loop, share of the layers whose cross-attention resolves it when {}, minus the mean of "
    "that share for self-attention and MLP; layers that cannot act are left out"
)
_CHOSEN_TEST = (
    "share of loops that the {} resolves under white noise; one half of the sources chooses it, "
    "and the share is that of the other half"
)
_OTHERS_TEST = (
    "share of loops that the chosen {} resolves under white noise, minus the mean share of the "
    "other {} that can act; on the half of the sources that did not choose it"
)
_COST_TEST = (
    "change of the word error rate of clean speech when white noise replaces the output of the "
    "chosen {}; rates above 1 count as 1"
)
_RANDOM_FLOOR = "equally long moves in random directions"
CLAIMS = {
    "noise_parts": Claim(
        "White noise in cross-attention resolves more loops than in self-attention or the MLP",
        "cross-attention 76 % at layer 23; no measurable effect of self-attention and MLP",
        _PARTS_TEST.format("white noise replaces its output"),
        least=0.1,
        floor=_RANDOM_FLOOR,
        **_LOOPS,
    ),
    "zero_parts": Claim(
        "Ablating cross-attention resolves more loops than ablating self-attention or the MLP",
        "as for white noise; the paper patches and ablates",
        _PARTS_TEST.format("it is set to zero"),
        least=0.1,
        **_LOOPS,
    ),
    "any_layer": Claim(
        "Cross-attention of any layer resolves more loops than self-attention or the MLP of any",
        "layers 18 and 23 together resolve 89 %, self-attention and MLP none",
        "per loop, 1 if white noise in the cross-attention of any layer resolves it, else 0; minus "
        "the mean of the same numbers for self-attention and MLP",
        paper_value=0.89,
        floor=_RANDOM_FLOOR,
        **_LOOPS,
    ),
    "others_inert": Claim(
        "Patching self-attention or the MLP has no measurable effect on loops",
        "no measurable effect",
        "share of loops that white noise in the self-attention or the MLP of any layer resolves, "
        "below one in ten",
        null=0.1,
        least=0.1,
        side="below",
        **_LOOPS,
    ),
    "one_layer": Claim(
        "The cross-attention of one layer resolves most loops",
        "layer 23 of 32: 76 %, white noise",
        _CHOSEN_TEST.format("best cross-attention layer"),
        null=0.5,
        paper_value=0.76,
        floor=_RANDOM_FLOOR,
        **_LOOPS,
    ),
    "one_head": Claim(
        "One head resolves most loops",
        "layer 18, head 13: 78.1 %",
        _CHOSEN_TEST.format("best head"),
        null=0.5,
        paper_value=0.781,
        floor=_RANDOM_FLOOR,
        **_LOOPS,
    ),
    "layer_beyond_others": Claim(
        "The chosen cross-attention layer resolves more loops than the other layers",
        "layer 23 resolves 76 %, layer 18 another 13 %",
        _OTHERS_TEST.format("layer", "cross-attention layers"),
        least=0.2,
        **_LOOPS,
    ),
    "head_beyond_others": Claim(
        "The chosen head resolves more loops than the other heads",
        "one of 640 heads resolves 78.1 %",
        _OTHERS_TEST.format("head", "heads"),
        least=0.2,
        **_LOOPS,
    ),
    "mean_parts": Claim(
        "Mean ablation resolves more loops in cross-attention than in self-attention or the MLP",
        "not asked",
        _PARTS_TEST.format("its mean over clean speech replaces its output"),
        least=0.1,
        **_OURS,
    ),
    "beyond_random": Claim(
        "White noise in cross-attention resolves more loops than equally long moves in random "
        "directions",
        "not asked",
        "per loop, share of the cross-attention layers that resolve it under white noise, minus "
        "the share under equally long moves in random directions, the mean of three seeds",
        least=0.1,
        **_OURS,
    ),
    "head_beyond_random": Claim(
        "White noise in the chosen head resolves more loops than equally long moves in random "
        "directions",
        "not asked",
        "share of loops that the chosen head resolves under white noise, minus the share under "
        "equally long moves in random directions; on the half of the sources that did not choose "
        "it",
        least=0.2,
        **_OURS,
    ),
    "sticky_head": Claim(
        "One head resolves most sticky loops",
        "not asked; 78.1 % of all loops",
        "share of sticky loops that the chosen head resolves under white noise, on the half of the "
        "sources that did not choose it; a sticky loop survives both paddings, noise at 30 dB, and "
        "timestamps",
        null=0.5,
        least=0.65,
        **_OURS,
    ),
    "types_differ": Claim(
        "Self-attention heads resolve loops that copy tokens more often than other loops",
        "not asked",
        "per loop, share of self-attention heads that resolve it under white noise, minus that "
        "share of cross-attention heads; the mean over loops whose self-attention copies tokens, "
        "minus the mean over other loops",
        least=0.1,
        **_OURS,
    ),
    "cheap_layer": Claim(
        "Clean speech does not need the chosen layer's cross-attention",
        "not measured",
        _COST_TEST.format("layer's cross-attention"),
        **_COST,
    ),
    "cheap_head": Claim(
        "Clean speech does not need the chosen head",
        "not measured",
        _COST_TEST.format("head"),
        **_COST,
    ),
}
