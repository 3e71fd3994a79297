"""Why inputs are standardised: gradient descent takes as many steps as the loss is elongated.

Least squares with two features and a bias. Its contours are ellipses; the condition number kappa,
the largest over the least eigenvalue of the Hessian, is the square of their elongation. Random data
of 400 examples: the second feature's range is `ratio` times the first's, both means are 3 standard
deviations from 0. Gradient descent at its best rate, 2 / (lambda_1 + lambda_n), until the loss is a
thousandth of the start's. The features are left raw, centred (less their mean), scaled (over their
standard deviation), or both. The contours are those of Boston housing, price by RM and LSTAT.

Meaning: The ellipses are contours of a least-squares loss with the path of gradient descent; the
other panels show the condition number of the loss for raw and for prepared features, and the steps
that it costs. The number of steps grows in proportion to the condition number, and standardising
(centring and scaling together) takes away all of it but what the correlation of the features
leaves.

Data: boston_housing, 506 examples, for the contours (Harrison and Rubinfeld (1978), from the
package mlxtend); the rest is synthetic, 400 examples of two normal features.
Source: the lecture on preparing data; LeCun et al. (1998), Efficient BackProp, sections 4.3 and 5;
Nesterov (2004), theorem 2.1.15, for the bound ln(1/share) / (2 ln((kappa + 1) / (kappa - 1))).
Run: python experiments/first_network/input_scaling.py
Expected: steps in proportion to kappa. Centring alone leaves the ratio of the ranges, squared;
scaling alone the means, for a feature far from 0 looks like the bias: 398 for two means of 3. Both
together leave what correlation there is, (1 + |r|) / (1 - |r|). Dividing by n or by n - 1 is one.
Time: 10 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, diagnostics, initializers, optimizers
from jaxdl.checks import require_at_least
from jaxdl.claims import Claim, about_mean, about_ratios, main, slopes
from jaxdl.plotting import new_figure

EXAMPLES, SHARE = 400, 1e-3
"""Of random data; and the share of the first loss at which a run ends."""
SHIFT, RATIOS, APART = 3.0, np.array([3.0, 10.0, 30.0]), 10.0
"""Means in standard deviations; ratios of the ranges; the ratio at which the ways are compared."""
WAYS = {"raw": (0, 0), "centred": (1, 0), "scaled": (0, 1), "both": (1, 1)}
"""Whether features are centred, and scaled."""
SAMPLING = 1.25
"""A variance of 400 examples is off by a factor of 1 +- 0.07, one standard deviation."""
ROUNDING = 1e-6
"""Relative, of the condition number of raw data, up to 1e6, in float64."""
COLUMNS, PATH_STEPS = (5, 12), 40
"""RM (rooms a dwelling) and LSTAT (% of lower-status people); steps of the paths in the figure."""
UNITS = {"centred": ("a room", "a %"), "both": ("a s.d.", "a s.d.")}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 20
    """Random data sets of each ratio; at least 3."""


PRESETS = {"default": Config(), "smoke": Config(seeds=5), "full": Config(seeds=200)}


def run(config: Config) -> xarray.Dataset:
    """By way, ratio and seed: kappa and steps, and with n - 1; Boston's kappas and paths."""

    require_at_least(1, seeds=config.seeds)
    seeds = np.arange(config.seed, config.seed + config.seeds)
    with jax.enable_x64(True):  # float32 has not the digits for a kappa of 1e5
        measure = jax.vmap(random_data, (None, None, 0))
        measure = jax.vmap(jax.vmap(measure, (None, 0, None)), (0, None, None))
        keys = jax.vmap(jax.random.key)(seeds)
        measured = jax.jit(measure)(jnp.array([*WAYS.values()]), jnp.asarray(RATIOS), keys)
        found = {name: (("way", "ratio", "seed"), np.asarray(of)) for name, of in measured.items()}
    coords = {"way": [*WAYS], "ratio": RATIOS, "seed": seeds}
    return xarray.merge([xarray.Dataset(found, coords), boston()])


def random_data(way: Any, ratio: Any, key: Any) -> dict[str, Any]:
    """Kappa, with n and n - 1 in the variance, and the steps of gradient descent."""
    centre, scale = way
    features_key, weights_key = jax.random.split(key)
    normal, spread = initializers.normal(), jnp.stack([jnp.ones_like(ratio), ratio])
    x = spread * (SHIFT + normal(features_key, (EXAMPLES, 2), ratio.dtype))
    angle = initializers.uniform(0.0, 2 * np.pi)(weights_key, (), ratio.dtype)
    # The target is direction @ (x - SHIFT spread) / spread: in standard units, without noise.
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    mean = centre * x.mean(0)

    def hessian(divisor: Any) -> Any:
        inputs = jnp.concatenate([jnp.ones((EXAMPLES, 1)), (x - mean) / divisor], 1)
        return inputs.T @ inputs / EXAMPLES

    by_n, by_n_1 = (jnp.where(scale, jnp.std(x, 0, ddof=ddof), 1.0) for ddof in (0, 1))
    bias = direction @ (mean / spread - SHIFT)
    best = jnp.concatenate([bias[None], direction * by_n / spread])
    kappa, rate = condition(hessian(by_n))
    return {
        "kappa": kappa,
        "kappa_n_1": condition(hessian(by_n_1))[0],
        "steps": steps_to_share(hessian(by_n), rate, best),
    }


def condition(hessian: Any) -> tuple[Any, Any]:
    """The condition number, and the rate with which the slowest direction is fastest."""
    values = jnp.linalg.eigvalsh(hessian)
    return values[-1] / values[0], 2 / (values[0] + values[-1])


def steps_to_share(hessian: Any, rate: Any, best: Any) -> Any:
    """Steps of gradient descent from 0 until a loss without noise is SHARE of the first.

    In coordinates from the minimum, where the gradient is H e, so that nothing cancels.
    """

    def loss(apart: Any) -> Any:
        return apart @ hessian @ apart / 2

    def step(walk: Any) -> Any:
        count, apart = walk
        return count + 1, apart - rate * jax.grad(loss)(apart)

    goal = SHARE * loss(-best)
    return jax.lax.while_loop(lambda walk: loss(walk[1]) > goal, step, (0, -best))[0]


def bound(kappa: Any) -> Any:
    """Steps that are always enough: each leaves (kappa - 1) / (kappa + 1) of every distance."""
    return np.log(1 / SHARE) / (2 * np.log((kappa + 1) / (kappa - 1)))


def boston() -> xarray.Dataset:
    """Boston housing: kappa by way; its correlation; the loss of centred features, and paths."""
    train = data.load("boston_housing").train
    x, price = train.inputs[:, COLUMNS].astype(np.float64), train.targets[:, 0].astype(np.float64)
    kappas, hessians, best, paths = [], [], [], []
    for centre, scale in WAYS.values():
        shifted = (x - centre * x.mean(0)) / (x.std(0) if scale else 1.0)
        inputs = np.column_stack([np.ones(len(x)), shifted])
        kappas.append(np.linalg.cond(inputs) ** 2)
        if centre:
            hessians.append(shifted.T @ shifted / len(x))
            best.append(np.linalg.lstsq(shifted, price - price.mean(), rcond=None)[0])
            paths.append(path(hessians[-1], best[-1]))
    return xarray.Dataset(
        {
            "boston_kappa": ("way", kappas),
            "correlation": np.corrcoef(x.T)[0, 1],
            "hessian": (("panel", "weight", "other"), np.array(hessians)),
            "best": (("panel", "weight"), np.array(best)),
            "path": (("panel", "step", "weight"), np.array(paths)),
        },
        {"way": [*WAYS], "panel": ["centred", "both"]},
    )


def path(hessian: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Gradient descent from 0 on (w - best)^T H (w - best) / 2, at the best rate."""
    values = np.linalg.eigvalsh(hessian)
    rate = 2 / (values[0] + values[-1])

    def loss(weights: Any) -> Any:
        return (weights - best) @ hessian @ (weights - best) / 2

    walked = diagnostics.descend(loss, optimizers.sgd(rate), jnp.zeros(2), PATH_STEPS)
    return np.asarray(walked, np.float64)


def claims(results: xarray.Dataset) -> list[Claim]:
    """Steps and kappa; what centring and scaling do, apart; n and n - 1."""
    kappa, steps = results["kappa"].transpose("seed", ...), results["steps"].transpose("seed", ...)
    centred = {"way": "centred"}
    exponents = [
        float(slopes(np.log(x), np.log(y)))
        for x, y in zip(kappa.sel(centred).values, steps.sel(centred).values, strict=True)
    ]
    apart, of = kappa.sel(ratio=APART), f"geometric mean of {results.sizes['seed']} seeds"
    from_means = elongation_of_means(SHIFT)
    r = abs(float(results["correlation"]))
    return [
        about_mean(
            "Twice the condition number costs twice the steps: they go as kappa^p (nearer to 1 "
            "than to momentum's 1/2), centred features of unequal ranges, p, mean of "
            f"{len(exponents)} seeds",
            exponents, 0.75, 1.25,
        ),
        Claim(
            "No run takes more steps than theory allows: the most, over ln(1000) / (2 ln((kappa "
            "+ 1) / (kappa - 1))), rounded up",
            (steps / np.ceil(bound(kappa))).max(), 0, 1 + ROUNDING,
        ),
        about_ratios(
            f"Centring alone leaves the unequal ranges: kappa over their ratio, {APART:g}, "
            f"squared, {of}",
            apart.sel(way="centred") / APART**2, 1 / SAMPLING, SAMPLING,
        ),
        about_ratios(
            f"Scaling alone leaves the means, far from 0: kappa over the {from_means:.0f} of "
            f"infinitely many examples with means of {SHIFT:g} standard deviations, {of}",
            apart.sel(way="scaled") / from_means, 1 / SAMPLING, SAMPLING,
        ),
        about_ratios(
            "Raw features suffer from their ranges and from their means: kappa over that of "
            f"centring alone, {of}",
            apart.sel(way="raw") / apart.sel(way="centred"), 10,
        ),
        about_ratios(
            "Features that are centred and scaled leave nothing but chance correlation: kappa, "
            f"{of}",
            apart.sel(way="both"), 1, 2,
        ),
        Claim(
            "On Boston housing the correlation of the features is left: kappa after both, over "
            f"(1 + |r|) / (1 - |r|) with r = {float(results['correlation']):.3f}",
            results["boston_kappa"].sel(way="both") * (1 - r) / (1 + r), 1 - 1e-9, 1 + 1e-9,
        ),
        Claim(
            "Whether one divides by n or by n - 1 makes no difference: kappa changes by at "
            f"most 1/(n - 1) = {1 / (EXAMPLES - 1):.4f}, relative, the largest change",
            abs(results["kappa_n_1"] / results["kappa"] - 1).sel(way="both").max(),
            0, 1 / (EXAMPLES - 1) + ROUNDING,
        ),
    ]  # fmt: skip


def elongation_of_means(shift: float) -> float:
    """The condition number of a bias and two independent features of mean `shift`, variance 1.

    The eigenvalues of [[1, m, m], [m, 1 + m^2, m^2], [m, m^2, 1 + m^2]]: 1, and two of product 1
    and sum 2 + 2 m^2.
    """
    half = 1 + shift**2
    root = np.sqrt(half**2 - 1)
    return float((half + root) / (half - root))


def plot(results: xarray.Dataset) -> Any:
    """Boston's contours and paths; kappa by way; steps by kappa with the bound."""
    figure = new_figure(11, 9)
    *panels, ways, steps = figure.subplots(2, 2).ravel()
    for axes, panel in zip(panels, ("centred", "both"), strict=True):
        of, kappa = results.sel(panel=panel), float(results["boston_kappa"].sel(way=panel))
        best, walked = of["best"].values, of["path"].values
        reach = 1.15 * np.abs(walked - best).max(0)
        first, second = (b + r * np.linspace(-1, 1, 101) for b, r in zip(best, reach, strict=True))
        away = np.stack(np.meshgrid(first - best[0], second - best[1]))
        heights = np.einsum("iab,ij,jab->ab", away, of["hessian"].values, away) / 2
        top = heights.max() * np.linspace(0, 1, 13)[1:] ** 2
        axes.contour(first, second, heights, levels=top, colors="0.7", linewidths=0.8)
        axes.plot(*walked.T, "C0.-", lw=1, label=f"{PATH_STEPS} steps at the best rate")
        axes.plot(0, 0, "ko", mfc="none", ms=9, label="start")
        axes.plot(*best, "k*", ms=12, label="minimum")
        title = "centred" if panel == "centred" else "centred and scaled"
        unit = UNITS[panel]
        axes.set(
            title=f"Boston, {title}: $\\kappa$ = {kappa:.3g}",
            xlabel=f"weight of RM (1000 dollars {unit[0]})",
            ylabel=f"weight of LSTAT (1000 dollars {unit[1]})",
        )
    panels[0].legend(fontsize=9, loc="upper right")
    places = np.arange(len(WAYS))
    random = results["kappa"].sel(ratio=APART).transpose("seed", "way").values
    ways.plot(places, random.T, "C1_", ms=12)
    ways.plot([], [], "C1_", ms=12, label=f"random data, ratio {APART:g}, means {SHIFT:g}")
    ways.plot(places, results["boston_kappa"], "C0s", ms=8, label="Boston housing")
    theory = {"centred": APART**2, "scaled": elongation_of_means(SHIFT), "both": 1}
    ways.plot(
        [[*WAYS].index(way) for way in theory],
        theory.values(),
        "kx",
        ms=9,
        label="theory, many examples",
    )
    ways.set(
        yscale="log", xticks=places, xticklabels=[*WAYS], ylabel=r"condition number $\kappa$",
        title="What centring and scaling remove", ylim=(0.2, None),
    )  # fmt: skip
    ways.legend(fontsize=9, loc="lower left")
    for way, style in zip(WAYS, ("C3v", "C0o", "C2^", "C4s"), strict=True):
        of = results.sel(way=way)
        steps.plot(of["kappa"].values.ravel(), of["steps"].values.ravel(), style, ms=4, label=way)
    line = np.geomspace(1.05, float(results["kappa"].max()), 200)
    steps.plot(line, bound(line), "k-", lw=1, label="bound")
    steps.set(
        xscale="log", yscale="log", xlabel=r"condition number $\kappa$",
        ylabel=f"steps to {SHARE:g} of the loss",
        title=f"{results.sizes['seed']} data sets of each ratio",
    )  # fmt: skip
    steps.legend(fontsize=9, loc="upper left")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
