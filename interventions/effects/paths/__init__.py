"""Measures the effect of one component on another along single edges (path patching)."""

from interventions.effects.paths.components import (
    RECEIVERS as RECEIVERS,
    SENDERS as SENDERS,
    Node as Node,
    Receiver as Receiver,
    all_receivers as all_receivers,
    nodes as nodes,
)
from interventions.effects.paths.patching import path_patch as path_patch
