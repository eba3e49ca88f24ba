"""Path patching: the effect of one component on another along a single edge of the graph."""

from interventions.effects.paths.components import (
    RECEIVERS as RECEIVERS,
    SENDERS as SENDERS,
    Node as Node,
    Receiver as Receiver,
    all_receivers as all_receivers,
    nodes as nodes,
)
from interventions.effects.paths.patching import path_patch as path_patch
