"""Fits linear probes of every layer in one call, and scores and applies the probes."""

from interventions.probes import (
    controls as controls,
    mdl as mdl,
    monitor as monitor,
    scores as scores,
    stream as stream,
)
from interventions.probes.bank import Bank as Bank
from interventions.probes.fit import fit_probes as fit_probes
