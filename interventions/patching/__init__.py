"""Patching sweeps: plans, the programs that compute cells, and the labelled result."""

from interventions.patching.plan import Plan as Plan
from interventions.patching.planning import plan_sweep as plan_sweep
from interventions.patching.sources import activation as activation, resampled as resampled
from interventions.patching.sweep import sweep as sweep
