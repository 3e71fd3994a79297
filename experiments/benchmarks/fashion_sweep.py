"""Fashion-MNIST in sweeps of 1 to 256 runs with shared batches, against one after another.

784-128-10, ReLU, Adam at 1e-3, batches of 100, one epoch. Arms, interleaved, compilation apart:

    one by one   the jitted run, once for each seed
    sweep        `training.sweep`: calls of as many members as the cache holds, one a core
    one call     all members in one call: what cutting into calls is good for

The order is shared, so a batch is gathered once for all members of a call and multiplied by all
their first layers at once. First the losses of members and solo runs are compared. With
`--curve`, also the time a member against the number of members, with a figure.

What bounds it: the matrix products, 0.3 s of a core a run however they are arranged; calls share
the gather and leave the cores to each other. State beyond a core's cache (2.4 MB read and written a
member and step) makes a call of 32 a fifth slower than one of 4.

Run: python experiments/benchmarks/fashion_sweep.py [--curve --output runs/fashion_sweep]
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from comparison import Row, measure, options_of, run, seconds_of, show

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.compiling import keep_compiled
from jaxdl.plotting import new_figure
from jaxdl.training.sweep.by_seed import BySeed, checked_by_seed
from jaxdl.training.sweep.calls import plan_calls, prepare
from jaxdl.training.sweep.program import Program, trace_member

NEEDS = "fashion_mnist"
BATCH, RATE = 100, 1e-3
RUNS = 16
MEMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST_IN_ONE_CALL = 64
COMPARED = 60
"""Steps over which members and solo runs must agree: later, roundings have grown."""

Member = Callable[[Any, Any], Any]
"""(key, orders) -> the loss of each step."""


def make_run(steps: int, *, epsilon: float = 1e-8) -> Member:
    """The pure function of a sweep, (key, orders) -> losses: an epoch of so many steps."""
    train = data.load("fashion_mnist").train
    train = data.Arrays(train.inputs[: steps * BATCH], train.targets[: steps * BATCH])
    model = models.MLP(
        [128, 10], kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
    )
    learn = training.make_run(
        training.Task(model, losses.cross_entropy),
        optimizers.adam(RATE, epsilon=epsilon, epsilon_position="outside"),
        batch_size=BATCH,
    )

    def run(key: Any, orders: Any) -> Any:
        return learn(key, {"train": train}, orders)[1]["train"]["loss"][0]

    return run


def first_orders(steps: int) -> np.ndarray:
    """The order of seed 0, which all runs share."""
    return training.orders(jax.random.key(0), 1, steps * BATCH)


def solo_of(run: Member, steps: int) -> Callable[[int], np.ndarray]:
    """The losses of the run of a seed."""
    orders = first_orders(steps)
    return lambda seed: np.asarray(run(jax.random.key(seed), orders))


def trace(run: Member, steps: int) -> Program:
    """The member, traced, with one order for all."""
    orders = shared_orders(steps, np.zeros(1, np.uint32))
    return trace_member(run, {}, by_seed=orders)


def shared_orders(steps: int, seeds: np.ndarray) -> list[BySeed]:
    """One order for all members."""
    return checked_by_seed({"orders": lambda _: first_orders(steps)}, "shared", (), seeds)


def sweep_of(program: Program, members: int, chunk: int | None) -> Callable[[], np.ndarray]:
    """The losses of all members; compiled when this returns."""
    execute = prepare(program, members, chunk)
    seeds = np.arange(members, dtype=np.uint32)
    (losses_of_steps,) = program.outputs.values()
    orders = shared_orders(losses_of_steps.shape[0], seeds)

    def call() -> np.ndarray:
        rows = np.empty((members, *losses_of_steps.shape), np.float32)

        def finished(indices: np.ndarray, metrics: list[np.ndarray]) -> None:
            rows[indices] = metrics[0]

        execute((seeds, *orders), np.arange(members), finished)
        return rows

    return call


def check_agreement() -> None:
    """Exit unless members and solo runs train the same networks."""
    run = make_run(COMPARED, epsilon=1e-3)
    swept = sweep_of(trace(run, COMPARED), RUNS, None)()
    solo = solo_of(run, COMPARED)
    by_seed = [np.abs(swept[seed] / solo(seed) - 1).max() for seed in range(RUNS)]
    typical, worst = np.median(by_seed), np.max(by_seed)
    print(
        f"the losses of {COMPARED} steps agree with the solo runs': median of the seeds "
        f"{typical:.1e}, worst {worst:.1e}"
    )
    # Sums of 784 terms in another order. With Adam's usual epsilon a weight whose gradient is next
    # to nothing would make a rounding's sign a whole step.
    if not (typical < 1e-5 and worst < 1e-3):
        raise SystemExit("the members do not train as their solo runs")


def compare(rounds: int, steps: int) -> dict[str, np.ndarray]:
    """Seconds of `RUNS` runs, by round: one after another, and swept."""
    one = make_run(steps)
    solo = solo_of(one, steps)
    solo(0)
    arms = {
        "one by one": lambda: [solo(seed) for seed in range(RUNS)],
        "sweep": sweep_of(trace(one, steps), RUNS, None),
    }
    arms["sweep"]()
    seconds: dict[str, np.ndarray] = measure(arms, rounds, warm=False)
    return seconds


def curve(most: int, steps: int) -> dict[str, Any]:
    """Seconds a member by number of members: swept, and in one call."""
    program = trace(make_run(steps), steps)
    counts = np.array([n for n in MEMBERS if n <= most])
    seconds: dict[str, list[float]] = {"sweep": [], "one call": []}
    in_a_call = []
    for members in counts.tolist():
        in_a_call.append(plan_calls(program, members, None).members)
        for name, chunk in (("sweep", None), ("one call", members)):
            if name == "one call" and members > MOST_IN_ONE_CALL:
                seconds[name].append(math.nan)
                continue
            call = sweep_of(program, members, chunk)
            call()
            times = [seconds_of(call) for _ in range(5 if members <= RUNS else 1)]
            seconds[name].append(float(np.median(times)) / members)
            print(f"{members} members, {name}: {seconds[name][-1]:.3f} s each", flush=True)
    return {
        "members": counts,
        "members_in_a_call": np.array(in_a_call),
        **{name.replace(" ", "_"): np.array(values) for name, values in seconds.items()},
    }


def plot(measured: dict[str, Any], one_by_one: float) -> Any:
    """Time a member against members."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    axes.axhline(one_by_one, color="k", ls=":", label="one after another")
    axes.plot(measured["members"], measured["one_call"], "C1s--", label="all in one call")
    axes.plot(measured["members"], measured["sweep"], "C0o-", lw=2, label="sweep")
    for members, seconds, size in zip(
        measured["members"], measured["sweep"], measured["members_in_a_call"], strict=True
    ):
        axes.annotate(
            f"{size}", (members, seconds), (0, -12), textcoords="offset points", ha="center",
            va="top",
        )  # fmt: skip
    axes.set(
        xscale="log",
        xlabel="members (below the line: members in a call)",
        ylabel="time a member (s)",
        title="Fashion-MNIST, 784-128-10, one epoch, shared batches",
        xticks=measured["members"],
        ylim=(0, None),
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend(loc="upper right")
    return figure


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Agreement, 16 runs both ways, and the curve."""
    keep_compiled()
    check_agreement()
    steps = arguments.steps
    seconds = compare(arguments.rounds, steps)
    yield from show(f"{RUNS} runs of {steps} steps", seconds, "one by one", at_most={"sweep": 1.0})
    if not arguments.curve:
        return
    measured = curve(arguments.most, steps)
    folder = arguments.output or Path("runs/fashion_sweep")
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name.replace(" ", "_"): values for name, values in seconds.items()}
    np.savez(folder / "seconds.npz", **kept | measured, allow_pickle=False)
    figure = plot(measured, float(np.median(seconds["one by one"])) / RUNS)
    figure.savefig(folder / "figure.png", dpi=150)
    print(f"{folder}/figure.png, and the numbers in seconds.npz")


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=5)
    parser.add_argument("--curve", action="store_true", help="also 1 to 256 members, with a figure")
    parser.add_argument("--steps", type=int, default=600, help="of a run; an epoch has 600")
    parser.add_argument("--most", type=int, default=MEMBERS[-1], help="members of the last sweep")
    sys.exit(run(rows, parser, __file__))
