"""Sweeps that patch every cell of a grid and score the next token."""

from interventions.patching.joining import open_sweep as open_sweep
from interventions.patching.plan import Plan as Plan
from interventions.patching.planning import plan_sweep as plan_sweep
from interventions.patching.sources import activation as activation, resampled as resampled
from interventions.patching.sweep import sweep as sweep
