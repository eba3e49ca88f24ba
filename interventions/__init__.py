"""Interventions on a jaxasr model: lenses, edits, sweeps and probes.

The common functions are imported here. The submodules hold the other ones.
"""

from interventions import (
    corruptions as corruptions,
    edits as edits,
    figures as figures,
    generation as generation,
    metrics as metrics,
    probes as probes,
    stats as stats,
    storage as storage,
)
from interventions.edits import (
    Add as Add,
    FromRow as FromRow,
    Mix as Mix,
    Noise as Noise,
    Patch as Patch,
    Project as Project,
    Scale as Scale,
    Zero as Zero,
    attend_only_to as attend_only_to,
    chain as chain,
    freeze_pattern as freeze_pattern,
    knockout as knockout,
    load_edits as load_edits,
    mean_ablation as mean_ablation,
    only as only,
    save_edits as save_edits,
)
from interventions.effects import paths as paths
from interventions.effects.direct_logits import (
    direct_logit_attribution as direct_logit_attribution,
    total_logit as total_logit,
)
from interventions.effects.first_order import attribution as attribution
from interventions.effects.paths import Node as Node, path_patch as path_patch
from interventions.generation import (
    generation_sweep as generation_sweep,
    sequence_sweep as sequence_sweep,
)
from interventions.lenses.encoder import EncoderLens as EncoderLens, encoder_lens as encoder_lens
from interventions.lenses.logit import LogitLens as LogitLens, logit_lens as logit_lens
from interventions.metrics import kl as kl, logit_diff as logit_diff, logprob as logprob
from interventions.patching import (
    Plan as Plan,
    open_sweep as open_sweep,
    plan_sweep as plan_sweep,
    resampled as resampled,
    sweep as sweep,
)
from interventions.probes import Bank as Bank, fit_probes as fit_probes
from interventions.run import Run as Run
from interventions.stats.agreement import Agreement as Agreement, rank_agreement as rank_agreement
from interventions.stats.summary import summarize as summarize
