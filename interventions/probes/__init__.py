"""Linear probes of every layer, penalty, fold and seed in one compiled fit, with controls."""

from interventions.probes import (
    controls as controls,
    mdl as mdl,
    monitor as monitor,
    scores as scores,
    stream as stream,
)
from interventions.probes.bank import Bank as Bank
from interventions.probes.fit import fit_probes as fit_probes
