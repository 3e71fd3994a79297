"""Claims that check themselves: a number, the band in which a statement is true, a verdict."""

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

__all__ = [
    "CHANCE",
    "Claim",
    "Estimate",
    "Verdict",
    "about_mean",
    "about_means",
    "about_quantile",
    "about_ratios",
    "about_share",
    "as_before",
    "chance_of_all",
    "interval",
]
