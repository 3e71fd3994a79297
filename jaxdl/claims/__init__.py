"""Claims that check themselves, and the runner of experiments that make them.

A claim is a number, the band in which a statement is true, and a verdict. `main` runs a module that
measures and claims; `jaxdl.claims.runner` says what such a module has.
"""

from jaxdl.claims.claim import CHANCE, Claim, Verdict, chance_of_all
from jaxdl.claims.descriptions import Described, described
from jaxdl.claims.draws import expected_best
from jaxdl.claims.estimates import (
    about_mean,
    about_means,
    about_ratios,
    as_before,
    mean_of_last,
)
from jaxdl.claims.gallery import keep_runs, write_gallery
from jaxdl.claims.pairs import Pair, ordered_pairs
from jaxdl.claims.refuted_claims import Refuted, refuted_claims
from jaxdl.claims.report import read_claims, report, write_claims
from jaxdl.claims.runner import main, seconds_since_start
from jaxdl.claims.shares import about_quantile, about_share
from jaxdl.claims.slopes import about_slope, slope_interval, slopes
from jaxdl.claims.stored_results import Results, read_results, write_results
from jaxdl.intervals import Estimate, interval
from jaxdl.public import public_names

__all__ = [
    "CHANCE",
    "Claim",
    "Described",
    "Estimate",
    "Pair",
    "Refuted",
    "Results",
    "Verdict",
    "about_mean",
    "about_means",
    "about_quantile",
    "about_ratios",
    "about_share",
    "about_slope",
    "as_before",
    "chance_of_all",
    "described",
    "expected_best",
    "interval",
    "keep_runs",
    "main",
    "mean_of_last",
    "ordered_pairs",
    "read_claims",
    "read_results",
    "refuted_claims",
    "report",
    "seconds_since_start",
    "slope_interval",
    "slopes",
    "write_claims",
    "write_gallery",
    "write_results",
]

__dir__ = public_names(globals())
