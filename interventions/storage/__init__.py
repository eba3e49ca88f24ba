"""Saves results and records how they were made."""

from interventions.storage.provenance import provenance as provenance
from interventions.storage.results import load_result as load_result, save_result as save_result
