"""Computes intervals, p-values and summaries of results, and compares estimates with them."""

from interventions.stats.agreement import Agreement as Agreement, rank_agreement as rank_agreement
from interventions.stats.clusters import (
    ClusterTest as ClusterTest,
    cluster_mean as cluster_mean,
    cluster_test as cluster_test,
)
from interventions.stats.intervals import (
    bootstrap as bootstrap,
    fdr as fdr,
    max_permutation as max_permutation,
    max_sign_flip as max_sign_flip,
    sign_flip as sign_flip,
)
from interventions.stats.roc import Interval as Interval, auroc_interval as auroc_interval
from interventions.stats.shares import (
    ClusterShare as ClusterShare,
    PairedShares as PairedShares,
    cluster_share as cluster_share,
    detectable_share as detectable_share,
    paired_shares as paired_shares,
    share_interval as share_interval,
    share_power as share_power,
)
from interventions.stats.summary import summarize as summarize, with_text as with_text
