"""Edits: callables `(x, at) -> x` that change an activation at a site."""

from interventions.edits.attention import (
    AttendOnlyTo as AttendOnlyTo,
    Knockout as Knockout,
    attend_only_to as attend_only_to,
    freeze_pattern as freeze_pattern,
    knockout as knockout,
    mean_ablation as mean_ablation,
)
from interventions.edits.random_direction import RandomDirection as RandomDirection
from interventions.edits.serialization import load_edits as load_edits, save_edits as save_edits
from interventions.edits.values import (
    Add as Add,
    Chain as Chain,
    FromRow as FromRow,
    Mix as Mix,
    Noise as Noise,
    Patch as Patch,
    Project as Project,
    Restrict as Restrict,
    Scale as Scale,
    Zero as Zero,
    chain as chain,
    only as only,
)
