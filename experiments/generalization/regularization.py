"""What each regulariser does to a network that over-fits.

[784, 64, 10] on 1,000 digits, Adam at rate 0.001, batches of 50, 60 epochs; once with true labels
and once with a fifth of them wrong, in training, in validation and (for the gap alone) in test.
Dropout, label smoothing, L2, decoupled decay; early stopping takes the epoch of the least
validation loss, known afterwards. A seed gives the first weights and the
order, the same for all regularisers; which labels are wrong belongs to the data.

Source: the lecture on regularisation; Srivastava et al. (2014); Szegedy et al. (2016), section 7;
Loshchilov and Hutter (2019).
Run: python experiments/generalization/regularization.py
Expected: with wrong labels the network learns them by heart, test accuracy on true ones is 76 %.
Stopping at epoch 6 of 60, decoupled decay 3 and dropout 0.75 each win back 9 points, dropout 0.5
and L2 0.01 win 6 to 7; label smoothing 0.1 leaves accuracy and gap, and lowers the loss. With
true labels dropout wins a point and early stopping lowers the loss, not the error.
Time: 70 s on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, interval, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

WIDTHS, BATCH_SIZE, RATE = (64, 10), 50, 1e-3
NOISE_KEY = 1
"""Which labels are wrong: part of the data, the same for all runs."""
NOISES = (0.0, 0.2)
SPLITS = ("train", "validation", "test")
CHECK = 2
"""Epochs from one evaluation to the next."""
ABREAST = 6
"""Runs that are trained side by side, at most."""
LOSS, ACCURACY, TRUE_ACCURACY = range(3)

HELPERS = ("l2_1e-2", "decay_3", "dropout_0.5", "dropout_0.75", "stopping")
"""Those that win back test accuracy, by more than the seeds spread."""


class Arm(NamedTuple):
    """A regulariser: its label, and which knob of the training it turns, how far."""

    label: str
    l2: float = 0.0
    decay: float = 0.0
    dropout: float = 0.0
    smoothing: float = 0.0


ARMS = {
    "none": Arm("none"),
    "l2_1e-3": Arm("L2, 0.001", l2=1e-3),
    "l2_1e-2": Arm("L2, 0.01", l2=1e-2),
    "decay_0.3": Arm("decoupled decay, 0.3", decay=0.3),
    "decay_3": Arm("decoupled decay, 3", decay=3.0),
    "dropout_0.25": Arm("dropout, 0.25", dropout=0.25),
    "dropout_0.5": Arm("dropout, 0.5", dropout=0.5),
    "dropout_0.75": Arm("dropout, 0.75", dropout=0.75),
    "smoothing_0.1": Arm("label smoothing, 0.1", smoothing=0.1),
    "smoothing_0.3": Arm("label smoothing, 0.3", smoothing=0.3),
}


CLAIMED = ("none", *(name for name in HELPERS if name in ARMS), "smoothing_0.1")
"""The arms that claims speak of: at least one of each kind."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each regulariser; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    epochs: int = 60
    """Passes over the 1,000 training examples; an even number."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Of ARMS: "none", which is first, those that claims speak of, and what else is to be seen."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=40, arms=CLAIMED),
    "full": Config(seeds=30, epochs=200),
}


def splits(noise: float, key: Any) -> dict[str, dict[str, Any]]:
    """1,000 digits to train on, 1,000 to stop by, 3,000 to test; `noise` of all labels wrong.

    The test labels are given twice, as they are and with the noise of the others.
    """
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0), fractions=(0.2, 0.2, 0.6))
    made = {}
    for purpose, name in enumerate(("train", "validation", "test")):
        part = getattr(digits, name)
        wrong_key, shift_key = jax.random.split(jax.random.fold_in(key, purpose))
        targets = jnp.asarray(part.targets)
        is_wrong = jax.random.uniform(wrong_key, targets.shape) < noise
        shift = jnp.where(is_wrong, jax.random.randint(shift_key, targets.shape, 1, 10), 0)
        inputs = training.scale_images(jnp.asarray(part.inputs)).reshape(len(targets), -1)
        made[name] = {"inputs": inputs, "targets": (targets + shift) % 10, "truth": targets}
    return made


def state_at(start: Any, optimizer: Any) -> training.TrainState:
    """The state before the first step of an optimizer, from (parameters, the run's key)."""
    params, key = start
    step = jnp.zeros((), jnp.int32)
    return training.TrainState(
        step=step, params=params, batch_stats={}, opt_state=optimizer.init(params), key=key
    )


def trainer(dropout: float, smoothing: float) -> Callable[..., Any]:
    """(splits, (start, order, rate, L2, decay) by run) -> the curves of each run."""
    model = models.MLP(WIDTHS, dropout_rate=dropout)
    loss = functools.partial(losses.cross_entropy, label_smoothing=smoothing)

    def measure(params: Any, split: Any) -> Any:
        logits: Any = model.apply({"params": params}, split["inputs"], train=False)
        return jnp.stack(
            [
                losses.cross_entropy(logits, split["targets"]).mean(),
                100 * metrics.accuracy(logits, split["targets"]).mean(),
                100 * metrics.accuracy(logits, split["truth"]).mean(),
            ]
        )

    @jax.jit
    def train(each: Any, runs: Any) -> Any:
        arrays = {name: each["train"][name] for name in ("inputs", "targets")}

        def one(run: Any) -> Any:
            start, order, rate, l2, decay = run
            optimizer = decayed_adam(rate, l2, decay)
            state = state_at(start, optimizer)
            step = training.make_train_step(model, optimizer, loss)
            epoch_of = training.make_train_epoch(step)

            def check(state: Any, rows: Any) -> Any:
                state, _ = epoch_of(state, arrays, rows)
                return state, jnp.stack([measure(state.params, each[name]) for name in SPLITS])

            return jax.lax.scan(check, state, order)[1]

        # A few of these small networks side by side take little more time than one.
        count = len(jax.tree.leaves(runs)[0])
        beside = max(each for each in range(1, ABREAST + 1) if count % each == 0)
        return jax.lax.map(one, runs, batch_size=beside)

    return train


def decayed_adam(rate: Any, l2: Any, decay: Any) -> Any:
    """Adam with an L2 penalty in its gradient and weight decay beside it."""
    inner = optax.chain(optimizers.l2(l2), optimizers.adam(rate))
    return optimizers.decoupled_decay(inner, decay)


def run(config: Config) -> Results:
    """By noise, regulariser, seed, check, split: loss in nats, accuracies in percent."""
    if config.arms[0] != "none" or not {*CLAIMED} <= {*config.arms} <= {*ARMS}:
        raise ValueError(
            f'arms must begin with "none", have {CLAIMED} among them and be of {tuple(ARMS)}, '
            f"got {config.arms}"
        )
    each = {noise: splits(noise, jax.random.key(NOISE_KEY)) for noise in NOISES}
    seeds = range(config.seed, config.seed + config.seeds)
    starts = first_weights(seeds)
    order = orders(seeds, config.epochs).reshape(len(seeds), config.epochs // CHECK, -1, BATCH_SIZE)
    trainers: dict[Any, Any] = {}
    curves = []
    for arm in (ARMS[name] for name in config.arms):
        knobs = arm.dropout, arm.smoothing
        train = trainers.setdefault(knobs, trainer(*knobs))
        knobs_of_adam = (jnp.full(config.seeds, value) for value in (RATE, arm.l2, arm.decay))
        runs = starts, order, *knobs_of_adam
        curves.append([train(each[noise], runs) for noise in NOISES])
        by_seed = np.asarray(curves[-1][-1])[:, -1, 2, TRUE_ACCURACY]
        mean, half_width = interval(by_seed)
        print(
            f"{arm.label:22} noise {NOISES[-1]}: test {mean:.2f} +- {half_width:.2f} %", flush=True
        )
    return {
        "names": np.array(config.arms),
        "curves": np.swapaxes(np.asarray(curves), 0, 1),
    }


def first_weights(seeds: Iterable[int]) -> Any:
    """(Parameters, the run's key), one a seed; every regulariser begins with the same."""
    model, sample = models.MLP(WIDTHS), jnp.zeros((1, 784))

    def first(key: Any) -> Any:
        state = training.init_state(key, model, optimizers.sgd(0.1), sample)
        return state.params, state.key

    keys = jax.vmap(jax.random.key)(jnp.array([*seeds]))
    return jax.jit(jax.vmap(first), compiler_options=init_options())(keys)


def orders(seeds: Iterable[int], epochs: int) -> Any:
    """The order of each epoch, by seed."""
    keys = [jax.random.key(seed) for seed in seeds]
    return jnp.asarray(
        np.stack([[training.epoch_order(key, e, 1000) for e in range(epochs)] for key in keys])
    )


def final(results: Results, noise: float, name: str) -> np.ndarray:
    """By seed, split and measure: after the last epoch; "stopping" is none's best check."""
    at = NOISES.index(noise)
    if name != "stopping":
        return np.asarray(results["curves"][at, results["names"].tolist().index(name)][:, -1])
    runs = results["curves"][at, 0]
    return np.asarray(runs[np.arange(len(runs)), stopped(results, noise)])


def stopped(results: Results, noise: float) -> np.ndarray:
    """By seed: the check at which the validation loss is least, without a regulariser."""
    return np.asarray(results["curves"][NOISES.index(noise), 0, :, :, 1, LOSS].argmin(1))


def gap(results: Results, noise: float, name: str) -> np.ndarray:
    """By seed: training accuracy less test accuracy, labels as given, points."""
    measured = final(results, noise, name)
    return np.asarray(measured[:, 0, ACCURACY] - measured[:, 2, ACCURACY])


def accuracy(results: Results, noise: float, name: str) -> np.ndarray:
    """By seed: test accuracy on the true labels, percent."""
    return final(results, noise, name)[:, 2, TRUE_ACCURACY]


def claims(results: Results) -> list[Claim]:
    """The over-fitting, what takes it away, and what does not."""
    mean_of = f"mean of {results['curves'].shape[2]} seeds"
    wrong = f"{NOISES[-1]:.0%} wrong labels"
    without = {noise: final(results, noise, "none") for noise in NOISES}
    made = [
        about_mean(
            f"Without a regulariser the network learns wrong labels by heart: {wrong}, training "
            f"less test accuracy, the gap, points, {mean_of}",
            gap(results, 0.2, "none"),
            0.0,
        )
    ]
    for name in HELPERS:
        label = ARMS[name].label if name in ARMS else "early stopping"
        helper = f"{label[0].upper()}{label[1:].replace(', ', ' of ')}"
        made += [
            about_mean(
                f"{helper} helps: {wrong}, gain of accuracy on true test labels, points, {mean_of}",
                accuracy(results, 0.2, name) - accuracy(results, 0.2, "none"),
                0.0,
            ),
            about_mean(
                f"{helper} narrows the gap: {wrong}, by points, {mean_of}",
                gap(results, 0.2, "none") - gap(results, 0.2, name),
                0.0,
            ),
        ]
    smooth = final(results, 0.2, "smoothing_0.1")
    narrower = gap(results, 0.2, "none") - gap(results, 0.2, "smoothing_0.1")
    stop = stopped(results, 0.2) + 1
    made += [
        about_mean(
            f"Label smoothing makes the network less sure of itself: 0.1, {wrong}, test loss falls "
            f"by nats, {mean_of}",
            (without[0.2] - smooth)[:, 2, LOSS],
            0.0,
        ),
        about_mean(
            f"It leaves the gap as it is: label smoothing 0.1, {wrong}, the share of the gap that "
            f"goes (early stopping: most of it), {mean_of}",
            narrower / gap(results, 0.2, "none"),
            -0.1,
            0.1,
        ),
        about_mean(
            "With true labels too, early stopping lowers the loss: the test loss falls by nats, "
            f"{mean_of}",
            (without[0.0] - final(results, 0.0, "stopping"))[:, 2, LOSS],
            0.0,
        ),
        about_mean(
            f"With wrong labels there is more to stop: the best epoch comes earlier than with true "
            f"ones, by epochs, {mean_of}",
            CHECK * (stopped(results, 0.0) + 1 - stop).astype(float),
            0.0,
        ),
        about_mean(
            f"With wrong labels most of the training is harmful: {wrong}, the best epoch over all "
            f"epochs, {mean_of}",
            stop / results["curves"].shape[3],
            high=0.25,
        ),
    ]
    return made


def plot(results: Results) -> Any:
    """Curves with wrong labels; accuracy and gap of each; free weights; the grid of Adam."""
    figure = new_figure(12, 5)
    curves, right, gaps = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    names = [*results["names"].tolist(), "stopping"]
    labels = [ARMS[name].label if name in ARMS else "early stopping" for name in names]
    seeds, checks = results["curves"].shape[2:4]

    epochs = CHECK * np.arange(1, checks + 1)
    for name, colour, marker in (
        ("none", "k", "o"),
        ("decay_3", "C0", "s"),
        ("dropout_0.75", "C1", "^"),
    ):
        runs = results["curves"][1, names.index(name)].mean(0)
        label = ARMS[name].label
        every = max(checks // 6, 1)
        for split, line, text in ((0, "--", None), (2, "-", label)):
            curves.plot(
                epochs, runs[:, split, LOSS], line, color=colour, marker=marker, ms=5,
                markevery=every, label=text,
            )  # fmt: skip
    stop = CHECK * (stopped(results, 0.2).mean() + 1)
    curves.axvline(stop, color="0.5", lw=1, ls=":")
    curves.text(stop, 0.03, f" early stopping:\n epoch {stop:.0f}", va="bottom", fontsize=8)
    curves.set(
        xlabel="epoch",
        ylabel="loss (nats): test solid, training dashed",
        ylim=(0, 1.45 * results["curves"][1, 0, :, -1, 2, LOSS].mean()),
        title=f"A fifth of the labels wrong, {seeds} seeds",
    )
    curves.legend(fontsize=8, loc="upper left")

    rows = np.arange(len(names))
    for axes, measure, title in (
        (right, accuracy, "test accuracy, true labels (%)"),
        (gaps, gap, "training less test accuracy (points)"),
    ):
        for noise, style, shift in ((0.0, "wo", -0.12), (0.2, "ks", 0.12)):
            values = np.stack([measure(results, noise, name) for name in names])
            mean, half_width = interval(values, axis=1)
            axes.errorbar(
                mean, rows + shift, xerr=half_width, fmt=style, mec="k", ecolor="k", ms=5,
                capsize=2, label="true labels" if noise == 0 else "a fifth wrong",
            )  # fmt: skip
        axes.set(yticks=rows, yticklabels=labels if axes is right else [], xlabel=title)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(lw=0.3)
        axes.invert_yaxis()
    right.set_title("The last epoch: mean, 95 % interval")
    gaps.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
