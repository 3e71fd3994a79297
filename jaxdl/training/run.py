"""A whole run as a pure function: initial state, steps, evaluation, epoch by epoch."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from jaxdl.calling import require_mode
from jaxdl.checks import is_traced, require_at_least, require_key
from jaxdl.compiling import compiler_options, init_options, loops_well, once_for_equal
from jaxdl.data.types import Dataset
from jaxdl.host_loops import with_loops_on_host
from jaxdl.training.evaluation import make_batch_sums
from jaxdl.training.state import TrainState, check_parts, init_state
from jaxdl.training.steps import make_eval_step, make_train_epoch, make_train_step, take
from jaxdl.training.task import Batch, Task, Weighted, as_batch, examples_in

Data = Mapping[str, Any]
"""{"train": a batch of all examples, and the splits to evaluate by name}, as arrays."""

Measured = dict[str, Any]
"""{"train": per step (epochs, steps), each other split: per epoch (epochs,), "measure": ...}"""

# Examples in a call of the evaluation step; it changes the means by rounding only.
EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Run:
    """A whole run, and the three functions that it is made of. All are pure; see `make_run`.

    Attributes:
        task: what is learned.
        optimizer: any optax gradient transformation.
        batch_size: examples in a step.
        drop_last: whether the smaller last batch of an epoch is left out.
        measure: (state) -> any pytree of arrays, taken after each epoch; None for nothing.
    """

    task: Task
    optimizer: optax.GradientTransformation
    batch_size: int
    drop_last: bool = False
    measure: Callable[[TrainState], Any] | None = None

    def init(self, key: Key[Array, ""], train: Batch, params: Any = None) -> TrainState:
        """The state before the first step, for the examples of a split.

        Its parameters are `params`, or those of `first_weights`.
        """
        return init_state(key, self.task, self.optimizer, _sample(self.task, train), params)

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """One update of the parameters; see `make_train_step`."""
        return make_train_step(self.task, self.optimizer)(state, batch)

    def evaluate(self, state: TrainState, split: Batch) -> dict[str, Array]:
        """The means of loss and metrics over a split, with the parameters to be evaluated."""
        step = make_eval_step(self.task)
        arrays = jax.tree.map(jnp.asarray, as_batch(split))
        sums = make_batch_sums(step, EVALUATION_BATCH)(state.evaluated, arrays)

        def total(values: Array) -> Array:
            return values.sum(dtype=jnp.promote_types(values.dtype, jnp.result_type(float)))

        def mean(values: Any) -> Array:
            if isinstance(values, Weighted):
                return total(values.total) / total(values.weight)
            return total(values) / examples_in(arrays)

        return {name: mean(values) for name, values in sums.items()}

    def epoch(
        self, state: TrainState, train: Batch, order: Int[Array, " examples"]
    ) -> tuple[TrainState, dict[str, Array]]:
        """The steps of one epoch: full batches in a scan, then the smaller last one."""
        full, rest = divmod(order.shape[0], self.batch_size)
        train = jax.tree.map(jnp.asarray, as_batch(train))
        rows = order[: full * self.batch_size].reshape(full, self.batch_size)
        state, measured = make_train_epoch(self.step)(state, train, rows)
        if rest and not self.drop_last:
            state, last = self.step(state, take(train, order[full * self.batch_size :]))
            measured = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), measured, last)
        return state, measured

    def after_epoch(self, state: TrainState, splits: Data) -> Measured:
        """The means over each split, and what `measure` gives."""
        measured: Measured = {name: self.evaluate(state, split) for name, split in splits.items()}
        return measured if self.measure is None else measured | {"measure": self.measure(state)}

    def __call__(
        self,
        key: Any,
        data: Any,
        orders: ArrayLike,
        start: TrainState | None = None,
    ) -> tuple[TrainState, Measured]:
        """Run the epochs whose orders are given; see `make_run`."""
        train, splits = jax.tree.map(jnp.asarray, self._checked(key, data, orders))
        traced = any(map(is_traced, jax.tree.leaves((key, train, splits, orders, start))))
        program = None if traced else self._first_step(key, train, start)
        # A traced hyper-parameter of optimizer, loss or measure is no argument, but a constant.
        if program is None or any(map(is_traced, program.consts)):
            return _whole(self, key, train, splits, jnp.asarray(orders), start)
        init, whole = _compiled(self, loops_well(program))
        start = init(key, train) if start is None else start
        result: tuple[TrainState, Measured] = whole(key, train, splits, jnp.asarray(orders), start)
        return result

    def _first_step(self, key: Key[Array, ""], train: Batch, start: TrainState | None) -> Any:
        """The program of a start, a step, and what is measured after it."""

        def first(key: Any, batch: Any, start: Any) -> Any:
            state = self.init(key, batch) if start is None else start
            state, measured = self.step(state, batch)
            return state, measured, None if self.measure is None else self.measure(state)

        batch = jax.tree.map(lambda array: array[: self.batch_size], train)
        return jax.make_jaxpr(first)(key, batch, start)

    def _checked(self, key: Any, data: Any, orders: Any) -> tuple[Batch, dict[str, Any]]:
        """The training split and the others. Refuse what no run can be made of."""
        require_key(key)
        if isinstance(data, Dataset):
            splits = {"train": data.train, "validation": data.validation, "test": data.test}
            data = {name: split for name, split in splits.items() if split is not None}
        if not isinstance(data, Mapping) or "train" not in data or "measure" in data:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise TypeError(
                'data must be {"train": ..., and the splits to evaluate by other names than '
                f'"measure"}}, or a Dataset, got {got}; name the training examples "train"'
            )
        batches = {name: as_batch(split) for name, split in data.items()}
        train = batches.pop("train")
        examples = examples_in(train)
        kinds = [_kinds(split["inputs"]) for split in (train, *batches.values())]
        for name, kind in zip(batches, kinds[1:], strict=True):
            if kind != kinds[0]:
                raise ValueError(
                    f"the inputs of every split must be alike, got {kinds[0]} to train on and "
                    f"{kind} in {name!r}; prepare both in the same way"
                )
        if self.batch_size > examples:
            raise ValueError(
                f"batch_size must be at most the {examples} training examples, got "
                f"{self.batch_size}; pass a smaller batch_size to make_run"
            )
        shape, dtype = jnp.shape(orders), jnp.result_type(orders)
        fix = f"make them with training.orders(key, epochs, {examples})"
        if len(shape) != 2 or shape[1] != examples or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"orders must be integers of shape (epochs, {examples}), a row an epoch, got "
                f"{dtype} of shape {shape}; {fix}"
            )
        if not is_traced(orders) and np.size(orders):
            low, high = int(np.min(orders)), int(np.max(orders))
            if low < 0 or high >= examples:
                raise ValueError(
                    f"orders must hold indices from 0 to {examples - 1}, got {low} to {high}; {fix}"
                )
        return train, batches


def make_run(
    task: Any,
    optimizer: Any,
    *,
    batch_size: int,
    drop_last: bool = False,
    measure: Callable[[TrainState], Any] | None = None,
) -> Run:
    r"""A whole run as a pure function: run(key, data, orders, start=None) -> (state, measured).

    `run` may be jitted, vmapped over keys and hyper-parameters, sharded, and differentiated by its
    caller. Called with arrays it compiles itself, once for equal runs; a step that is slow in a
    loop (a convolution on a CPU) is then driven from the host. With the same key and
    `training.orders` of that key it is the run that `fit` makes, to rounding.

    Arguments:
        task: what is learned.
        optimizer: any optax gradient transformation; its hyper-parameters may be traced.
        batch_size: examples in a step, at most the training examples.
        drop_last: leave out the smaller last batch of each epoch.
        measure: (state) -> any pytree of arrays, after each epoch.

    The arguments of `run`:
        key: the key of the run: initial parameters and dropout follow from it.
        data: {"train": ..., and the splits to evaluate}, each `data.Arrays` or a batch; or a
            `Dataset`. They are arguments of the compiled program, not part of it.
        orders: (epochs, examples), `training.orders(key, epochs, examples)`.
        start: the state to go on from; `run.init(key, data["train"])` by default.

    It returns the last state, and measured values by name: "train" has loss and metrics of every
    step, (epochs, steps), from the outputs before its update; every other split has its means after
    each epoch, (epochs,); "measure" what that function gave, with a leading axis of epochs.
    `run.init`, `run.step` and `run.evaluate` are its parts.

    Raises:
        TypeError: what is no key, no task, no optimizer or no data.
        ValueError: batch_size below 1 or above the examples; orders of another length, or beyond
            the data; splits whose inputs differ; a mode that does not reach the model's dropout and
            norms. It is raised before anything is compiled.

    Example:
        >>> from jaxdl import data, losses, models, optimizers, training
        >>> x = jnp.linspace(-1, 1, 64)[:, None]
        >>> line = {"train": data.Arrays(x, 2 * x)}
        >>> task = training.Task(models.MLP([1]), losses.mean_squared_error)
        >>> key = jax.random.key(0)
        >>> orders = training.orders(key, epochs=5, examples=64)
        >>> def last_loss(rate):
        ...     run = make_run(task, optimizers.sgd(rate), batch_size=16)
        ...     return run(key, line, orders)[1]["train"]["loss"][-1, -1]
        >>> losses_of_rates = jax.vmap(last_loss)(jnp.array([0.05, 0.5]))
        >>> bool(losses_of_rates[0] > losses_of_rates[1])
        True
    """
    if not isinstance(task, Task):
        raise TypeError(
            f"task must be a training.Task, got {type(task).__name__}; "
            "make one, e.g. Task(model, losses.cross_entropy)"
        )
    check_parts(jax.random.key(0), task.model, optimizer)
    require_at_least(1, batch_size=batch_size)
    return Run(task, optimizer, batch_size, drop_last, measure)


def first_weights(task: Task, train: Batch) -> Callable[[Key[Array, ""]], Any]:
    """The parameters that a run starts from, as a function of its key.

    The function is compiled in less than a second, because it is compiled without optimisation. In
    the program of a whole run the same random numbers take seconds to compile. So a sweep draws
    them before its members run, each seed's once:

        sweep(member, over, seeds=8, by_seed={"params": first_weights(task, train), ...})

    and its member, `member(key, params, orders)`, starts from `run.init(key, train, params)`.

    Arguments:
        task: what is learned.
        train: a split, as for a `Run`; only the shape and dtype of its inputs matter.

    Example:
        >>> from jaxdl import losses, models, training
        >>> task = training.Task(models.MLP([1]), losses.mean_squared_error)
        >>> examples = {"inputs": jnp.ones((4, 3)), "targets": jnp.ones((4, 1))}
        >>> draw = training.first_weights(task, examples)
        >>> jax.tree.map(jnp.shape, draw(jax.random.key(0)))["dense_0"]
        {'bias': (1,), 'kernel': (3, 1)}
    """
    sample = _sample(task, train)

    def draw(key: Key[Array, ""]) -> Any:
        return init_state(key, task, optax.identity(), sample).params

    return jax.jit(draw, compiler_options=init_options())


def _sample(task: Task, train: Batch) -> Any:
    """One example's inputs, as the model sees them."""
    first = jax.tree.map(lambda array: jnp.asarray(array[:1]), as_batch(train)["inputs"])
    return task.preprocess(first)


def _whole(
    run: Run,
    key: Key[Array, ""],
    train: Batch,
    splits: Data,
    orders: Int[Array, "epochs examples"],
    start: TrainState | None,
) -> tuple[TrainState, Measured]:
    state = run.init(key, train) if start is None else start
    _check_mode(run, state, train)

    def epoch(state: TrainState, order: Array) -> tuple[TrainState, Measured]:
        state, measured = run.epoch(state, train, order)
        return state, {"train": measured, **run.after_epoch(state, splits)}

    result: tuple[TrainState, Measured] = lax.scan(epoch, state, orders)
    return result


def _check_mode(run: Run, state: TrainState, train: Batch) -> None:
    batch = jax.tree.map(lambda array: array[: run.batch_size], as_batch(train)["inputs"])
    inputs = jax.eval_shape(run.task.preprocess, batch)
    variables = jax.eval_shape(lambda: state.variables)
    require_mode(run.task.model, variables, inputs, run.task.mode)


Compiled = Callable[..., Any]


@once_for_equal
def _compiled(run: Run, looped: bool) -> tuple[Compiled, Compiled]:
    """The start, and the run as one program or with its loops driven from the host."""
    init = jax.jit(run.init, compiler_options=init_options())
    whole = functools.partial(_whole, run)
    if looped:
        return init, jax.jit(whole, compiler_options=compiler_options())
    return init, with_loops_on_host(whole, compiler_options(convolutional=True))


def _kinds(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape[1:])}", tree))
