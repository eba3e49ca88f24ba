"""Lenses, edits, sweeps and probes: pure transforms of a jaxasr model."""

from interventions.edits.attention import (
    Force as Force,
    Knockout as Knockout,
    force as force,
    freeze as freeze,
    knockout as knockout,
    mean as mean,
)
from interventions.edits.serialization import load_edits as load_edits, save_edits as save_edits
from interventions.edits.values import (
    Add as Add,
    Chain as Chain,
    Mix as Mix,
    Noise as Noise,
    Only as Only,
    Patch as Patch,
    Project as Project,
    Row as Row,
    Scale as Scale,
    Zero as Zero,
    chain as chain,
    only as only,
)
from interventions.effects.direct_logits import (
    direct_logits as direct_logits,
    total_logit as total_logit,
)
from interventions.effects.first_order import attribution as attribution
from interventions.effects.paths import (
    Node as Node,
    everything as everything,
    nodes as nodes,
    path_patch as path_patch,
)
from interventions.generation.sweeps import head_map as head_map, sequence_sweep as sequence_sweep
from interventions.lenses.encoder import EncoderLens as EncoderLens, encoder_lens as encoder_lens
from interventions.lenses.logit import LogitLens as LogitLens, logit_lens as logit_lens
from interventions.metrics import (
    kl as kl,
    logit_diff as logit_diff,
    logprob as logprob,
    rank as rank,
)
from interventions.patching.sweep import planned as planned, sweep as sweep
from interventions.probes import Bank as Bank, fit_probes as fit_probes
from interventions.run import Run as Run
from interventions.stats.agreement import Agreement as Agreement, rank_agreement as rank_agreement
from interventions.stats.summary import summarize as summarize
