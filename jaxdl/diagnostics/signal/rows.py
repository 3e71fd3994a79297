"""A model's computation, layer by layer: one trace, cut after each layer's value.

The program itself is cut, not the outputs of modules. So the gradient of a value counts every use
of it, also a residual connection outside of any module.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import tracers
from flax.errors import InvalidRngError
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jaxtyping import Array

from jaxdl.calling import call_model, initial_variables
from jaxdl.checks import require_key, require_module
from jaxdl.jaxprs import Segment, cut, makers

ACTIVATION = "activation"

# These operations move or round values: a reshaped value is the same signal.
_MOVES = {"reshape", "squeeze", "expand_dims", "transpose", "convert_element_type", "copy"}
_CALLS = {"jit", "pjit", "closed_call"}


@dataclass(frozen=True)
class Row:
    """A value of the model's forward pass.

    Attributes:
        name: the module's path; for an activation the name of the row before, with "/activation".
        kind: the module's class, or "activation".
        path: the module's place in the parameters; empty for an activation.
        variable: its variable in the traced program.
    """

    name: str
    kind: str
    path: tuple[str, ...]
    variable: Var

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape, the batch included."""
        aval: Any = self.variable.aval
        return tuple(aval.shape)

    @property
    def dtype(self) -> Any:
        """The value's dtype."""
        aval: Any = self.variable.aval
        return aval.dtype


@dataclass(frozen=True)
class Trace:
    """A model's forward pass as straight-line pieces, one up to each row and one to the end.

    Attributes:
        rows: the values, in order of execution.
        segments: one more than the rows.
        program: the whole program, with its constants.
        structure: the tree structure of the model's outputs.
        outputs: the number of output arrays.
    """

    rows: tuple[Row, ...]
    segments: tuple[Segment, ...]
    program: ClosedJaxpr
    structure: Any
    outputs: int

    def replay(
        self, arguments: Any, on_row: Callable[[int, Any, Segment, Mapping[Var, Any]], Any]
    ) -> Any:
        """Compute the model's outputs again, and pass every row's value through `on_row`.

        Arguments:
            arguments: arguments like those of the trace, with the same structure.
            on_row: (index, value, segment that made it, values before it) -> the value to go on
                with.
        """
        jaxpr = self.program.jaxpr
        values: dict[Var, Any] = dict(zip(jaxpr.constvars, self.program.consts, strict=True))
        values.update(zip(jaxpr.invars, jax.tree.leaves(arguments), strict=True))
        for index, segment in enumerate(self.segments):
            before = dict(values)
            given = segment.run([values[variable] for variable in segment.reads])
            values.update(zip(segment.gives, given, strict=True))
            if index < len(self.rows):
                variable = self.rows[index].variable
                values[variable] = on_row(index, values[variable], segment, before)
        outputs = [
            atom.val if isinstance(atom, Literal) else values[atom]
            for atom in jaxpr.outvars[: self.outputs]
        ]
        return jax.tree.unflatten(self.structure, outputs)


def trace(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, *, train: bool, key: Any
) -> tuple[Trace, tuple[Any, ...]]:
    """The model's forward pass and the arguments to replay it with: (variables, inputs, key).

    Rows are the outputs of modules that call no other module. A value that a module receives, or
    the model returns, is a row too if a plain function made it from such an output. A reshaped
    value has no second row. A lifted transformation (`nn.scan`, `nn.remat`, `nn.vmap`) is one row.
    `variables`, `inputs` and `key` may be traced, or only shapes and dtypes.

    Raises:
        TypeError: the model is no module, or the key no key.
        ValueError: the model draws random numbers without a key.
    """
    require_module(model)
    if key is not None:
        require_key(key)
    arguments = (dict(variables), inputs, key)
    seen: list[_Seen] = []
    structure = None

    def forward(variables: Any, inputs: Any, key: Any) -> tuple[list[Any], list[Any]]:
        nonlocal structure
        seen.clear()
        with nn.intercept_methods(_watcher(seen)):
            outputs, _ = call_model(
                model, variables, inputs, train=train, dropout_key=key, moving=True
            )
        seen.extend(_Seen(value, "", None) for value in _signals(outputs))
        leaves, structure = jax.tree.flatten(outputs)
        return leaves, [each.value for each in seen]

    try:
        program, (outputs, _) = jax.make_jaxpr(forward, return_shape=True)(*arguments)
    except InvalidRngError as error:
        if key is not None:
            raise
        raise ValueError(
            f"a model that draws random numbers needs a key, got key=None with train={train}; "
            "pass key=jax.random.key(0), or train=False"
        ) from error
    rows = _rows(program.jaxpr, seen, program.jaxpr.outvars[len(outputs) :])
    after = [row.variable for row in rows]
    segments = cut(program.jaxpr, after, program.jaxpr.outvars[: len(outputs)])
    return Trace(rows, segments, program, structure, len(outputs)), arguments


def require_rows(traced: Trace, model: nn.Module) -> None:
    """Refuse a model without rows."""
    if not traced.rows:
        raise ValueError(
            "a model must compute at least one array in a module that no nn.remat or nn.scan "
            f"hides, got {type(model).__name__}, which computes none; pass a model with layers"
        )


def trace_shapes(
    model: nn.Module, inputs: Any, *, train: bool, preprocess: Callable[[Array], Array]
) -> tuple[Trace, Mapping[str, Any], Any]:
    """The forward pass of a model that was not built: no value and no parameter is computed.

    Returns:
        The trace; the shapes of its variables, and of its inputs after `preprocess`.

    Raises:
        TypeError: the model is no module, or an input has no shape and dtype.
    """
    require_module(model)
    for leaf in jax.tree.leaves(inputs):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(
                f"inputs must be arrays, or shapes with a dtype, got {inputs!r}; "
                "pass jax.ShapeDtypeStruct((batch, ...), 'float32')"
            )
    key = jax.eval_shape(lambda: jax.random.key(0))
    inputs = jax.eval_shape(preprocess, inputs)
    variables = jax.eval_shape(functools.partial(initial_variables, model), key, inputs)
    return trace(model, variables, inputs, train=train, key=key)[0], variables, inputs


@dataclass
class _Seen:
    """An input or an output of a module; an output has its module's path as name."""

    value: Any
    name: str
    module: nn.Module | None


def _watcher(seen: list[_Seen]) -> Callable[..., Any]:
    """An interceptor that lists the inputs of modules, and the outputs of leaf modules."""
    level = tracers.current_trace()
    has_child = [False]

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        # Inside a lifted transformation values belong to another trace and cannot be taken out.
        if context.method_name != "__call__" or tracers.current_trace() != level:
            return call(*args, **kwargs)
        seen.extend(_Seen(value, "", None) for value in _signals((args, kwargs)))
        has_child[-1] = True
        has_child.append(False)
        try:
            outputs = call(*args, **kwargs)
        finally:
            leaf = not has_child.pop()
        if leaf:
            signals = _signals(outputs)
            name = "/".join(context.module.path) or type(context.module).__name__
            for number, value in enumerate(signals):
                part = f"{name}[{number}]" if len(signals) > 1 else name
                seen.append(_Seen(value, part, context.module))
        return outputs

    return watch


def _signals(tree: Any) -> list[Any]:
    """The arrays of floating or complex dtype that have a batch axis."""
    return [
        leaf
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.ndim
    ]


def _rows(jaxpr: Jaxpr, seen: Sequence[_Seen], atoms: Sequence[Any]) -> tuple[Row, ...]:
    """The distinct values among `seen`, in the order in which the program computes them."""
    made_by = makers(jaxpr)
    listed: dict[Any, tuple[Var, _Seen]] = {}
    for each, atom in zip(seen, atoms, strict=True):
        root = root_of(jaxpr, made_by, atom)
        if root in made_by and root not in listed:
            # Of a reshaped activation take the value before the reshape; of a module its own
            # output.
            listed[root] = (root if each.module is None else atom, each)
    in_order = sorted(listed.values(), key=lambda pair: made_by[pair[0]])
    rows: list[Row] = []
    names: dict[str, int] = {}
    last = None
    for variable, each in in_order:
        if each.module is None and last is None:
            continue  # a function of the inputs, before any module
        name = each.name if each.module is not None else f"{last}/{ACTIVATION}"
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}:{names[name]}"
        if each.module is None:
            rows.append(Row(unique, ACTIVATION, (), variable))
        else:
            last = unique
            rows.append(Row(unique, type(each.module).__name__, each.module.path, variable))
    return tuple(rows)


def root_of(jaxpr: Jaxpr, made_by: Mapping[Var, int], atom: Any) -> Any:
    """The variable that `atom` is a reshaped or rounded copy of; None for a literal."""
    while not isinstance(atom, Literal) and atom in made_by:
        eqn = jaxpr.eqns[made_by[atom]]
        name = eqn.primitive.name
        if name in _MOVES:
            atom = eqn.invars[0]
        elif name in _CALLS and "jaxpr" in eqn.params:
            inner = eqn.params["jaxpr"].jaxpr
            out = root_of(inner, makers(inner), inner.outvars[eqn.outvars.index(atom)])
            if out not in inner.invars:
                return atom
            atom = eqn.invars[inner.invars.index(out)]
        else:
            return atom
    return None if isinstance(atom, Literal) else atom


def signals_of(traced: Trace) -> list[Array]:
    """Zeros for each row, of its shape and dtype."""
    return [jnp.zeros(row.shape, row.dtype) for row in traced.rows]
