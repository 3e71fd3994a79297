"""A cost model of sweeps and of data parallelism: sums of costs, fitted by least squares.

Everything is a sum of costs times how often each is paid. `paid` says how often, for

    call        one call of a sweep: m members on each of D devices of one process
    workers     a sweep of N members in calls of m on W worker processes
    all-reduce  the sum of n bytes over D devices, each of which ends with the whole sum
    step        one step of SGD on a batch of B, divided among D devices, with P parameters
    memory      what a compiled call of m members holds at once, on each device

Devices and workers of one machine share its cores. A call or a worker has one core, so with C cores
D of them take max(1, D / C) times as long as with a core each. The products of a step use all cores
already on one device, so there D devices take D times as long.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from jaxdl.plotting import new_figure

Setting = Mapping[str, float]
Costs = dict[str, float]


class Measured(NamedTuple):
    """One measurement: seconds, or bytes of memory.

    Attributes:
        part: of the model.
        setting: D, W, m, N, n, B, P as above; C is the number of cores.
        value: what was measured.
        fitted: whether the costs were fitted to it.
    """

    part: str
    setting: Setting
    value: float
    fitted: bool


def paid(part: str, s: Setting) -> Costs:
    """How often each cost of a part is paid."""
    cores = s["C"]
    if part == "call":
        shared = max(1.0, s["D"] / cores)
        return {"call": 1.0, "device of a call": s["D"], "member": s["m"] * shared}
    if part == "workers":
        rounds = math.ceil(s["N"] / (s["m"] * s["W"]))
        shared = max(1.0, s["W"] / cores)
        return {
            "sweep": 1.0,
            "call of a worker": rounds * shared,
            "start of a worker": s["first"] * shared,
        }
    if part == "all-reduce":
        shared = max(1.0, s["D"] / cores)
        return {
            "all-reduce": shared,
            "byte on the way": bytes_sent(s["D"], s["n"]) * shared,
        }
    if part == "step":
        # One device already uses all cores for a product, so D devices take D times as long.
        return {
            "step": s["D"],
            "multiplication": 3 * s["P"] * s["B"],
            "parameter": s["P"] * s["D"],
        }
    return {"memory of a call": 1.0, "memory of a member": s["m"]}


def bytes_sent(devices: float, size: float) -> float:
    """The bytes that each device sends in a ring all-reduce: 2 (D - 1) / D of the array.

    Source: P. Patarasuk and X. Yuan, Bandwidth optimal all-reduce algorithms (2009).
    """
    return 2 * (devices - 1) / devices * size


def fit(rows: Sequence[Measured]) -> Costs:
    """The costs, none below 0, with the least relative error over the fitted rows of each part.

    What a row contains of an earlier part is taken off first.
    """
    costs: Costs = {}
    for part in ("call", "workers", "all-reduce", "step", "memory"):
        own = [row for row in rows if row.part == part and row.fitted]
        names = list(paid(part, own[0].setting))
        factors = np.array([[paid(part, r.setting)[name] for name in names] for r in own])
        values = np.array([row.value for row in own])
        rest = values - [_contained(costs, row) for row in own]
        solution, _ = nnls(factors / values[:, None], rest / values)
        costs |= dict(zip(names, solution.tolist(), strict=True))
    return costs


def predict(costs: Costs, row: Measured) -> float:
    """What the model says of a row."""
    own = sum(costs[name] * often for name, often in paid(row.part, row.setting).items())
    return own + _contained(costs, row)


def _contained(costs: Costs, row: Measured) -> float:
    """Seconds of earlier parts: the all-reduces of a step, the compiled calls of a sweep."""
    s = row.setting
    if row.part == "workers":
        often = paid("call", {**s, "D": 1.0})
        times = paid("workers", s)["call of a worker"]
        return times * sum(costs[name] * n for name, n in often.items())
    if row.part == "step" and s["D"] > 1:
        often = paid("all-reduce", {**s, "n": 4 * s["P"]})
        often["all-reduce"] *= s["sums"]
        return sum(costs[name] * n for name, n in often.items())
    return 0.0


def show_costs(rows: Sequence[Measured], costs: Costs) -> None:
    """Print the costs, and each row beside what the model says of it."""
    table = Table("part", "setting", "measured", "model", "model / measured", "")
    for row in rows:
        said, unit = predict(costs, row), (1e-6, "MB") if row.part == "memory" else (1e3, "ms")
        setting = ", ".join(f"{name} {value:,.0f}" for name, value in row.setting.items())
        table.add_row(
            row.part, setting, f"{row.value * unit[0]:.2f} {unit[1]}", f"{said * unit[0]:.2f}",
            f"{said / row.value:.2f}", "fitted" if row.fitted else "predicted",
        )  # fmt: skip
    found = Table("cost", "fitted")
    for name, cost in costs.items():
        found.add_row(name, f"{cost:.3g} {'bytes' if 'memory' in name else 's'}")
    Console(width=140).print(table, found)


def draw_costs(rows: Sequence[Measured], costs: Costs, path: Path) -> None:
    """Predicted against measured: seconds of all parts but memory."""
    figure = new_figure(width=6.5, height=5.2)
    axes = figure.add_subplot()
    times = [row for row in rows if row.part != "memory"]
    for index, part in enumerate(dict.fromkeys(row.part for row in times)):
        for fitted in (True, False):
            own = [row for row in times if row.part == part and row.fitted == fitted]
            axes.scatter(
                [row.value for row in own], [predict(costs, row) for row in own], s=28,
                edgecolors=f"C{index}", facecolors=f"C{index}" if fitted else "none",
                label=f"{part}, {'fitted' if fitted else 'predicted'}",
            )  # fmt: skip
    values = [row.value for row in times]
    line = np.array([min(values) / 1.5, max(values) * 1.5])
    axes.plot(line, line, color="0.4", linewidth=1, label="model = measured")
    axes.fill_between(line, line / 1.5, line * 1.5, color="0.9", zorder=0, label="within 1.5 x")
    axes.set(
        xscale="log", yscale="log", xlabel="measured (s)", ylabel="model (s)", xlim=line, ylim=line,
        title="What a sum of costs says, and what was measured",
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
