"""A model's computation, layer by layer: one trace, cut after each layer's value.

The program itself is cut, not the outputs of modules. So the gradient of a value counts every use
of it, also a residual connection outside of any module.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError
from jax.extend.core import Var
from jaxtyping import Array

from jaxdl.calling import Adapted, call_model, draws_unasked, name_of
from jaxdl.checks import require_key
from jaxdl.diagnostics.signal.names import Namer, Row, layer_axes, layer_sizes, layers_of
from jaxdl.notices import notice
from jaxdl.tracing.labels import keys_of, labelled, received
from jaxdl.tracing.levels import Level, OnSite
from jaxdl.tracing.opened import written_out
from jaxdl.tracing.readings import holds_modules, label_readings
from jaxdl.tracing.sites import Site, find_sites
from jaxdl.training.task import Task, examples_in, to_measure


@dataclass(frozen=True)
class Trace:
    """A model's forward pass, cut after every site.

    Attributes:
        rows: the values, in order of execution.
        sites: the values, once for all layers of a scan.
        top: the program.
        structure: the tree structure of the model's outputs.
        hidden: the modules whose values cannot be looked at.
        layered: the scans that run over layers.
        inputs: the variables of the model's inputs.
    """

    rows: tuple[Row, ...]
    sites: tuple[Site, ...]
    top: Level
    structure: Any
    hidden: tuple[str, ...]
    layered: frozenset[Level]
    inputs: tuple[Var, ...]

    def replay(
        self, arguments: Any, taps: Sequence[Any] | None, on_site: OnSite
    ) -> tuple[Any, list[Any]]:
        """Compute the model's outputs again, and pass every site's value through `on_site`.

        Arguments:
            arguments: arguments like those of the trace, with the same structure.
            taps: one for each site, handed to `on_site` with the value.
            on_site: see `OnSite`.

        Returns:
            The outputs; what `on_site` kept of every site.
        """
        inputs = jax.tree.leaves(_ordered(arguments))
        outputs, kept = self.top.run(inputs, dict(enumerate(taps or ())), on_site)
        return (
            jax.tree.unflatten(self.structure, outputs),
            [kept[number] for number in range(len(self.sites))],
        )

    def taps(self) -> list[Array]:
        """Zeros for each site, of its value's shape and dtype, with axes of all scans around it."""
        return [
            jnp.zeros((*(scan.length for scan in site.scans), *site.shape), site.dtype)
            for site in self.sites
        ]

    def by_layer(self, site: Site, values: Array) -> Array:
        """A site's values with one first axis of layers, of length 1 without layers."""
        axes = list(layer_axes(site, self.layered).values())
        front = jnp.moveaxis(values, axes, range(len(axes)))
        count = math.prod(front.shape[: len(axes)])
        return front.reshape(count, *front.shape[len(axes) :])

    def in_order(self, values: Array) -> Array:
        """Values of all layers of the first site, of the second..., in the order of the rows."""
        return values[self.order()]

    def order(self) -> np.ndarray:
        """Of each row its number among the layers of the first site, of the second..."""
        starts = np.cumsum([0, *self.layers()[:-1]])
        return np.array([starts[row.site] + row.layer for row in self.rows])

    def layers(self) -> list[int]:
        """How many rows each site has."""
        return [layers_of(site, self.layered) for site in self.sites]

    def parameters(self, site: Site, params: Any) -> list[Array]:
        """A site's parameters, each with a first axis of layers."""
        leaves = jax.tree.leaves(params)
        sources = layer_axes(site, self.layered)
        sizes = layer_sizes(site, self.layered)
        found = []
        for own in site.own:
            axes = [own.axes[source] for source in sources if source in own.axes]
            front = jnp.moveaxis(leaves[own.leaf], axes, range(len(axes)))
            rest = front.shape[len(axes) :]
            held = [size if s in own.axes else 1 for s, size in zip(sources, sizes, strict=True)]
            spread = jnp.broadcast_to(front.reshape(*held, *rest), (*sizes, *rest))
            found.append(spread.reshape(math.prod(sizes), *rest))
        return found


def some_examples(inputs: Any) -> int:
    """How many examples the inputs hold.

    Raises:
        ValueError: none.
    """
    examples = examples_in(inputs)
    if not examples:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"a batch must hold at least one example, got inputs of shape "
            f"{', '.join(map(str, shapes))}; pass some"
        )
    return examples


def trace(
    task: Task, variables: Mapping[str, Any], inputs: Any, *, train: bool, key: Any
) -> tuple[Trace, tuple[Any, ...]]:
    """The model's forward pass and the arguments to replay it with: (variables, inputs, key).

    Rows are the outputs of modules that call no other module. A value that a module receives, or
    the model returns, is a row too if a plain function made it from such an output. A reshaped
    value has no second row. Blocks under `nn.remat` and `nn.jit` have the rows that they have
    without; a scan or a vmap over layers has those of every layer. A scan over time has one row for
    all times. Only what depends on a parameter has a row.
    `variables`, `inputs` and `key` may be traced, or only shapes and dtypes.

    Raises:
        TypeError: the key is no key.
        ValueError: the model has no rows, or draws random numbers without a key.
    """
    if key is not None:
        require_key(key)
    elif not train and task.evaluation_seed is not None:
        key = jax.random.key(task.evaluation_seed)
    drawn = key
    if key is None and draws_unasked(task.model):  # then a key that nothing depends on is none
        key = jax.random.key(0)
    arguments = (dict(variables), inputs, key)
    structure = None

    def forward(ordered: Any) -> list[Any]:
        nonlocal structure
        params, others, inputs, key = ordered
        with labelled():
            outputs, _ = call_model(
                task.model, {**others, "params": params}, inputs, train=train, dropout_key=key,
                moving=True, mode=task.mode,
            )  # fmt: skip
        leaves, structure = jax.tree.flatten(received(outputs))
        return leaves

    try:
        program = jax.make_jaxpr(forward)(_ordered(arguments))
    except InvalidRngError as error:
        if key is not None:
            raise
        raise _needs_key(train) from error
    except Exception as error:
        if key is None and isinstance(task.model, Adapted) and _runs_with_a_key(forward, arguments):
            raise _needs_key(train) from error  # they say it in words of their own
        raise
    paths = [keys_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(_params(variables))]
    beside: tuple[str, ...] = ()
    if not holds_modules(program.jaxpr):
        program, beside = label_readings(program, paths)
    program, hidden = written_out(program)
    hidden += beside
    if hidden:
        notice(
            f"the modules {', '.join(hidden)} run inside a branch, a while loop, a callback or a "
            "function with its own derivative, where their values cannot be looked at: they have "
            "no rows",
        )
    top = Level(program.jaxpr, program.consts)
    if drawn is None and key is not None:
        inputs_before = len(program.jaxpr.invars) - 1
        if any(Level(program.jaxpr, program.consts).mark_learned([False] * inputs_before + [True])):
            raise _needs_key(train)
    count = len(program.jaxpr.invars)
    top.mark_learned([index < len(paths) for index in range(count)])
    sites = tuple(find_sites(top, len(paths), program.jaxpr.outvars))
    if not sites:
        raise ValueError(
            "a model must compute at least one array in a module, "
            f"got {name_of(task.model)}, which computes none; pass a model with layers"
        )
    layered = frozenset(
        source
        for site in sites
        for own in site.own
        for source in own.axes
        if isinstance(source, Level)
    )
    sizes = [leaf.size for leaf in jax.tree.leaves(_params(variables))]
    rows = tuple(Namer(sites, layered, paths, sizes).of(top))
    first = len(jax.tree.leaves(dict(variables)))
    received_by = tuple(program.jaxpr.invars[first : first + len(jax.tree.leaves(inputs))])
    return Trace(rows, sites, top, structure, hidden, layered, received_by), arguments


def trace_shapes(
    task: Task, inputs: Any, *, train: bool, variables: Any = None
) -> tuple[Trace, Mapping[str, Any], Any]:
    """The forward pass of a model that was not built: no value and no parameter is computed.

    Returns:
        The trace; the shapes of its variables, and of its inputs after the task's `preprocess`.

    Raises:
        TypeError: an input has no shape and dtype.
        ValueError: the model has no rows.
    """
    for leaf in jax.tree.leaves(inputs):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(
                f"inputs must be arrays, or shapes with a dtype, got {inputs!r}; "
                "pass jax.ShapeDtypeStruct((batch, ...), 'float32')"
            )
    key = jax.eval_shape(lambda: jax.random.key(0))
    inputs = jax.eval_shape(task.preprocess, inputs)
    if variables is None:
        variables = jax.eval_shape(task.init, key, inputs)
    else:
        variables = jax.eval_shape(lambda: to_measure(task, variables)[1])
    return trace(task, variables, inputs, train=train, key=key)[0], variables, inputs


def _runs_with_a_key(forward: Callable[[Any], Any], arguments: Any) -> bool:
    variables, inputs, _ = arguments
    try:
        jax.make_jaxpr(forward)(_ordered((variables, inputs, jax.random.key(0))))
    except Exception:
        return False
    return True


def _needs_key(train: bool) -> ValueError:
    return ValueError(
        f"a model that draws random numbers needs a key, got key=None with train={train}; "
        "pass key=jax.random.key(0), or train=False"
    )


def _params(variables: Mapping[str, Any]) -> Any:
    return variables.get("params", {})


def _ordered(arguments: Any) -> Any:
    """The parameters first: so the first inputs of the program are theirs."""
    variables, inputs, key = arguments
    others = {name: value for name, value in variables.items() if name != "params"}
    return _params(variables), others, inputs, key
