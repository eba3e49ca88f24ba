"""Defines edits, which are callables `(x, at) -> x` that change an activation at a site."""

from interventions.edits.attention import (
    AttendOnlyTo as AttendOnlyTo,
    Knockout as Knockout,
    KnockoutAudio as KnockoutAudio,
    attend_only_to as attend_only_to,
    freeze_pattern as freeze_pattern,
    knockout as knockout,
    mean_ablation as mean_ablation,
)
from interventions.edits.base import EditBase as EditBase, FromRow as FromRow
from interventions.edits.cells import AtCell as AtCell, AtSites as AtSites, site_cells as site_cells
from interventions.edits.combining import (
    Chain as Chain,
    Restrict as Restrict,
    chain as chain,
    only as only,
)
from interventions.edits.noise import Noise as Noise
from interventions.edits.projection import Project as Project
from interventions.edits.random_direction import RandomDirection as RandomDirection
from interventions.edits.serialization import load_edits as load_edits, save_edits as save_edits
from interventions.edits.values import (
    Add as Add,
    Mix as Mix,
    Patch as Patch,
    Scale as Scale,
    Zero as Zero,
)
