"""Computes intervals, p-values and summaries of results, and compares estimates with them."""

from interventions.stats.agreement import Agreement as Agreement, rank_agreement as rank_agreement
from interventions.stats.intervals import (
    any_of_alike as any_of_alike,
    any_of_many as any_of_many,
    bootstrap as bootstrap,
    fdr as fdr,
    sign_flip as sign_flip,
)
from interventions.stats.roc import Interval as Interval, auroc as auroc
from interventions.stats.summary import summarize as summarize, with_text as with_text
