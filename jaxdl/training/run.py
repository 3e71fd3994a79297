"""A whole run as a pure function: initial state, steps, evaluation, epoch by epoch."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from jaxdl.checks import Count, is_traced, require_like, whole_number
from jaxdl.compiling import compiler_options, init_options, loops_well, once_for_equal
from jaxdl.forking import require_own_threads
from jaxdl.host_loops import with_loops_on_host
from jaxdl.training.evaluated_stats import recalibrated, with_room
from jaxdl.training.evaluation import make_batch_sums
from jaxdl.training.fields import on_device
from jaxdl.training.refusals import (
    check_labels,
    checked_data,
    checked_evaluation,
    checked_outputs,
    checked_split,
    require_start,
)
from jaxdl.training.state import TrainState, check_parts, init_state, run_key
from jaxdl.training.steps import make_eval_step, make_train_epoch, make_train_step, take
from jaxdl.training.task import (
    Batch,
    Task,
    Weighted,
    as_batch,
    examples_in,
    require_of_examples,
)

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
        recalibrate: whether the statistics of norms are those of what is evaluated.
    """

    task: Task
    optimizer: optax.GradientTransformation
    batch_size: int
    drop_last: bool = False
    measure: Callable[[TrainState], Any] | None = None
    recalibrate: bool = False
    _plans: dict[Any, "_Plan"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """For `pickle` and copies, which make plans of their own."""
        return vars(self) | {"_plans": {}}

    def init(self, key: Key[Array, ""], train: Batch, params: Any = None) -> TrainState:
        """The state before the first step, for the examples of a split.

        Its parameters are `params`, or those of `first_weights`.
        """
        state = init_state(key, self.task, self.optimizer, _sample(self.task, train), params)
        return with_room(self.task, state) if self.recalibrate else state

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """One update of the parameters; see `make_train_step`."""
        return make_train_step(self.task, self.optimizer)(state, batch)

    def evaluate(self, state: TrainState, split: Batch) -> dict[str, Array]:
        """The means of loss and metrics over a split, with the parameters to be evaluated."""
        require_own_threads("Run.evaluate")
        step = make_eval_step(self.task)
        arrays = on_device(checked_evaluation(self.task, state.evaluated, split))
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
        train = on_device(checked_split(train, "the train split"))
        rows = order[: full * self.batch_size].reshape(full, self.batch_size)
        state, measured = make_train_epoch(self.step)(state, train, rows)
        if rest and not self.drop_last:
            state, last = self.step(state, take(train, order[full * self.batch_size :]))
            measured = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), measured, last)
        return state, measured

    def recalibrated(self, state: TrainState, train: Batch) -> TrainState:
        """The state whose `evaluated` has the statistics of norms over the train split."""
        train = on_device(checked_split(train, "the train split"))
        return recalibrated(self.task, state, as_batch(train)["inputs"], EVALUATION_BATCH)

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
        require_own_threads("a Run")
        orders = orders if is_traced(orders) else np.asarray(orders)
        train, splits = checked_data(key, data, orders, self.batch_size)
        plan = self._planned(key, train, splits, start)
        for name, split in {"train": train, **splits}.items():
            weights = split.get("weights")
            check_labels(name, plan.outputs, split["targets"], self.task.loss, weights)
        train, splits = on_device((train, splits))
        arguments = (key, train, splits, jnp.array(orders), start)
        if plan.traced or any(map(is_traced, jax.tree.leaves(arguments))):
            return _whole(self, *arguments)
        init, whole = _compiled(self, plan.looped)
        start = init(key, train) if start is None else start
        result: tuple[TrainState, Measured] = whole(*arguments[:-1], start)
        return result

    def _planned(self, *arguments: Any) -> "_Plan":
        """The plan for arguments of these shapes, made once."""
        *others, start = arguments
        require_start(start)
        leaves, structure = jax.tree.flatten((*others, start and vars(start)))
        shapes = tuple(
            jax.ShapeDtypeStruct(
                jnp.shape(leaf),
                jax.dtypes.canonicalize_dtype(
                    getattr(leaf, "dtype", None) or jnp.result_type(leaf), True
                ),
            )
            for leaf in leaves
        )
        if (structure, shapes) not in self._plans:
            self._plans[structure, shapes] = _plan(self, *jax.tree.unflatten(structure, shapes))
        return self._plans[structure, shapes]


def make_run(
    task: Any,
    optimizer: Any,
    *,
    batch_size: Count,
    drop_last: bool = False,
    measure: Callable[[TrainState], Any] | None = None,
    recalibrate: bool = False,
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
        recalibrate: evaluate with the statistics of norms over the train split, of the parameters
            that are evaluated, in place of the running averages; for optimizers that hold an
            average of the parameters. It costs a pass over the train split an epoch. In a loop of
            your own call `run.recalibrated(state, train)` before `run.evaluate`.

    The arguments of `run`:
        key: the key of the run: initial parameters and dropout follow from it.
        data: {"train": ..., and the splits to evaluate}, each `data.Arrays` or a batch; or a
            `Dataset`. They are arguments of the compiled program, not part of it.
        orders: (epochs, examples), `training.orders(key, epochs, examples)`.
        start: the state to go on from; `run.init(key, data["train"])` by default. Its key is
            replaced by that of the run: dropout follows from `key`.

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
    require_own_threads("make_run")
    if not isinstance(task, Task):
        raise TypeError(
            f"task must be a training.Task, got {type(task).__name__}; "
            "make one, e.g. Task(model, losses.cross_entropy)"
        )
    check_parts(jax.random.key(0), task.model, optimizer)
    require_of_examples(task)
    size = whole_number("batch_size", batch_size)
    return Run(task, optimizer, size, drop_last, measure, recalibrate)


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


class _Plan(NamedTuple):
    """How a run is compiled for arguments of some shapes.

    Attributes:
        traced: whether optimizer, loss or measure hold a traced number, which is no argument.
        looped: whether its loops may be compiled.
        outputs: the shapes of the model's outputs for a batch.
    """

    traced: bool
    looped: bool
    outputs: Any


def _plan(run: Run, key: Any, train: Any, splits: Any, start: Any) -> _Plan:
    """Refuse what does not belong together, and trace a start, a step and what is measured."""

    def initial(key: Any, train: Any) -> Any:
        state = run.init(key, train)
        return vars(state), state.variables

    expected, variables = jax.eval_shape(initial, key, train)
    if start is not None:
        require_like("start", start, expected)
    outputs = checked_outputs(run.task, variables, {"train": train, **splits}, run.batch_size)

    def first(key: Any, train: Any, start: Any) -> Any:
        batch = jax.tree.map(lambda array: array[: run.batch_size], train)
        state = run.init(key, batch) if start is None else TrainState(**start)
        state, measured = run.step(state, batch)
        return state, measured, None if run.measure is None else run.measure(state)

    program = jax.make_jaxpr(first)(key, train, start)
    return _Plan(any(map(is_traced, program.consts)), loops_well(program), outputs)


def _whole(
    run: Run,
    key: Key[Array, ""],
    train: Batch,
    splits: Data,
    orders: Int[Array, "epochs examples"],
    start: TrainState | None,
) -> tuple[TrainState, Measured]:
    state = run.init(key, train) if start is None else replace(start, key=run_key(key))

    def epoch(state: TrainState, order: Array) -> tuple[TrainState, Measured]:
        state, measured = run.epoch(state, train, order)
        if run.recalibrate:
            state = run.recalibrated(state, train)
        return state, {"train": measured, **run.after_epoch(state, splits)}

    result: tuple[TrainState, Measured] = lax.scan(epoch, state, orders)
    return result


Compiled = Callable[..., Any]


@once_for_equal
def _compiled(run: Run, looped: bool) -> tuple[Compiled, Compiled]:
    """The start, and the run as one program or with its loops driven from the host."""
    init = jax.jit(run.init, compiler_options=init_options())
    whole = functools.partial(_whole, run)
    if looped:
        return init, jax.jit(whole, compiler_options=compiler_options())
    return init, with_loops_on_host(whole, compiler_options(convolutional=True))
