"""Claims that check themselves, and the runner of experiments that make them.

A claim is a number, the band in which a statement is true, and a verdict. `main` runs a module that
measures and claims; `jaxdl.claims.runner` says what such a module has.
"""

from jaxdl.claims.claim import CHANCE, Claim, Verdict, chance_of_all
from jaxdl.claims.estimates import (
    Estimate,
    about_mean,
    about_means,
    about_quantile,
    about_ratios,
    about_share,
    as_before,
    interval,
)
from jaxdl.claims.report import read_claims, report, write_claims
from jaxdl.claims.runner import main, seconds_since_start
from jaxdl.claims.stored_results import Results, read_results, write_results

__all__ = [
    "CHANCE",
    "Claim",
    "Estimate",
    "Results",
    "Verdict",
    "about_mean",
    "about_means",
    "about_quantile",
    "about_ratios",
    "about_share",
    "as_before",
    "chance_of_all",
    "interval",
    "main",
    "read_claims",
    "read_results",
    "report",
    "seconds_since_start",
    "write_claims",
    "write_results",
]
