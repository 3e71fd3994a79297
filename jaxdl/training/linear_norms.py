"""Which batch norms of a traced model read a linear layer that nothing else reads.

In the traced program each layer is an opaque operation of its inputs and parameters, and each norm
of its inputs, parameters and statistics. So the program says all that is asked: who reads whom, and
how often.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from jaxdl.compiling import traced_apart
from jaxdl.jaxprs import cut, inner_programs
from jaxdl.layers import BatchNorm
from jaxdl.layers.convolution import convolve
from jaxdl.tracing.labels import LABEL, bind_label, keys_of
from jaxdl.tracing.opened import written_out
from jaxdl.training.running_norms import (
    arguments_of_norm,
    feature_axis,
    is_batch_norm,
    running_mean,
    uses_running,
)

Path = tuple[str, ...]

_LAYERS = (nn.Dense, nn.Conv, nn.ConvTranspose)
_NORMS = (BatchNorm, nn.BatchNorm)
_FUNCTIONS = (
    "dot_general", "dot_general_cls", "conv_general_dilated", "conv_general_dilated_cls",
    "promote_dtype",
)  # fmt: skip
KEEP = "use the model as it is"


class Pair(NamedTuple):
    """A norm, and the layer before it.

    Attributes:
        name: the norm's.
        modules: the paths of the layer and of the norm.
        kernel: the path of the layer's kernel among the variables.
        bias: that of its bias, if it has one.
        norm: by their names, the paths of the norm's parameters and statistics.
        epsilon: the norm's.
    """

    name: str
    modules: tuple[Path, Path]
    kernel: Path
    bias: Path | None
    norm: Mapping[str, Path]
    epsilon: float


class _Call(NamedTuple):
    """A call of a layer or a norm: the module's path and class, what it reads by name."""

    path: Path
    kind: str
    reads: tuple[str, ...]
    epsilon: float | None = None

    @property
    def name(self) -> str:
        return "/".join(self.path) or self.kind


def find_pairs(run: Callable[..., Any], variables: Any, *arguments: Any) -> list[Pair]:
    """Every batch norm that `run` calls, with the layer that it can be folded into.

    Arguments:
        run: (variables, ...) -> the outputs of a Linen model in evaluation.
        variables: shapes and dtypes, as of the other arguments.

    Raises:
        ValueError: a norm that has no such layer, which is named with the reason.
    """
    calls: list[_Call] = []

    def mark(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if is_batch_norm(module):
            return _mark_norm(module, call, args, kwargs, calls)
        if type(module) in _LAYERS and len(args) == 1 and not kwargs and _is_linear(module):
            outputs = call(*args)
            # What the layer computes is left out of the program.
            return _mark(calls, module, jnp.zeros_like(outputs), args, {})
        return call(*args, **kwargs)

    def marked(*given: Any) -> Any:
        with traced_apart(), nn.intercept_methods(mark):
            return run(*given)

    program, _ = written_out(jax.make_jaxpr(marked)(variables, *arguments), everything=True)
    (whole,) = cut(program.jaxpr, [], program.jaxpr.outvars)
    equations = whole.program.eqns
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    paths = dict(zip(program.jaxpr.invars, (keys_of(path) for path, _ in leaves), strict=False))
    readers = Counter(
        atom
        for atoms in (*(each.invars for each in equations), program.jaxpr.outvars)
        for atom in atoms
        if not isinstance(atom, Literal)
    )
    made_by = {made: equation for equation in equations for made in equation.outvars}
    found = [each for each in equations if each.primitive.name == LABEL and each.params["part"]]
    places = {int(each.params["part"]) for each in found if not each.params["mapped"]}
    pairs = []
    for number, norm in enumerate(calls):
        if norm.epsilon is None:
            continue
        if number not in places:
            _refuse(
                norm,
                "stand plainly in the model",
                "one in a scan, a vmap, a branch or a loop, or whose output is not used",
            )
    for equation in found:
        norm = calls[int(equation.params["part"])]
        if norm.epsilon is not None:
            pairs.append(_pair(equation, norm, calls, paths, readers, made_by))
    return pairs


def _mark_norm(module: Any, call: Any, args: Any, kwargs: Any, calls: list[_Call]) -> Any:
    """Refuse what the norm itself does, beside its scale and shift of features."""
    named = arguments_of_norm(module, args, kwargs)
    _, x, *_ = named.values()
    norm = _Call(module.path, type(module).__name__, ())
    if type(module) not in _NORMS:
        _refuse(norm, "be a BatchNorm of jaxdl.layers or Flax", f"a {norm.kind}")
    if running_mean(module) is None:
        _refuse(norm, "have running statistics", "variables without them")
    if not uses_running(module, named):
        _refuse(norm, "use its running statistics in evaluation", "one that uses the batch's own")
    if named["mask"] is not None:
        _refuse(norm, "have no mask", "one that sets what it masks to other values")
    axes = feature_axis(module)
    for axis in axes if isinstance(axes, tuple | list) else [axes]:
        if axis % x.ndim != x.ndim - 1 or axes not in (axis, (axis,), [axis]):
            _refuse(
                norm, "normalise the last axis, which has the units of its layer", f"axis {axes}"
            )
    outputs = call(*args, **kwargs)
    if outputs.dtype != x.dtype:
        _refuse(norm, "keep the dtype of its layer", f"{outputs.dtype} from {x.dtype}")
    reads = {
        name: module.get_variable(collection, name)
        for collection, names in (("batch_stats", ("mean", "var")), ("params", ("scale", "bias")))
        for name in names
        if module.has_variable(collection, name)
    }
    return _mark(calls, module, x, (), reads, module.epsilon)


def _mark(
    calls: list[_Call],
    module: Any,
    value: Any,
    inputs: tuple[Any, ...],
    reads: Mapping[str, Any],
    epsilon: float | None = None,
) -> Any:
    if epsilon is None:
        names = [name for name in ("kernel", "bias") if module.has_variable("params", name)]
        reads = {name: module.get_variable("params", name) for name in names}
    calls.append(_Call(module.path, type(module).__name__, tuple(reads), epsilon))
    return bind_label(value, *inputs, *reads.values(), part=str(len(calls) - 1))


def _is_linear(module: Any) -> bool:
    """Whether a layer computes with the functions of its library, and has its units last."""
    fields = type(module).__dataclass_fields__
    return not getattr(module, "transpose_kernel", False) and all(
        getattr(module, name) in (fields[name].default, convolve)
        for name in _FUNCTIONS
        if name in fields
    )


def _pair(
    equation: JaxprEqn,
    norm: _Call,
    calls: list[_Call],
    paths: Mapping[Any, Path],
    readers: Mapping[Any, int],
    made_by: Mapping[Any, JaxprEqn],
) -> Pair:
    x, *of_norm = equation.invars
    maker = made_by.get(x)
    is_marked = maker is not None and maker.primitive.name == LABEL and maker.params["part"]
    layer = calls[int(maker.params["part"])] if is_marked else None  # type: ignore[union-attr]
    if layer is None or layer.epsilon is not None:
        if layer is not None:
            got = f"norm {layer.name}"
        elif maker is None:
            got = "an input of the model"
        else:
            got = f"the result of the operation {_operation(maker)}"
        rule = "directly follow a Dense, Conv or ConvTranspose of Flax that computes as its class"
        _refuse(norm, rule, f"{got} before it")
    assert layer is not None
    assert maker is not None
    if readers[x] != 1:
        rule = f"be all that reads the outputs of layer {layer.name}"
        _refuse(norm, rule, f"{readers[x]} readers")
    _, _, *of_layer = maker.invars
    if any(axis is not None for axes in maker.params["mapped"] for axis in axes[2:]):
        _refuse(norm, "have one layer", f"several in a vmap, {layer.name}")
    named: dict[_Call, dict[str, Path]] = {}
    for call, atoms in ((layer, of_layer), (norm, of_norm)):
        for name, atom in zip(call.reads, atoms, strict=True):
            own = f"have parameters, as its layer, that are read once: {name} of {call.name}"
            if atom not in paths:
                _refuse(norm, own, "one that the model computes or shares")
            if readers[atom] != 1:
                _refuse(norm, own, f"one that is read {readers[atom]} times")
            named.setdefault(call, {})[name] = paths[atom]
    assert norm.epsilon is not None
    return Pair(
        norm.name,
        (layer.path, norm.path),
        named[layer]["kernel"],
        named[layer].get("bias"),
        named[norm],
        norm.epsilon,
    )


def _operation(equation: JaxprEqn) -> str:
    """What an operation is called; of a function with its own derivative the function's name."""
    inner = [each for program in inner_programs(equation) for each in program.eqns]
    names = (each.params["name"] for each in (equation, *inner) if "name" in each.params)
    return str(next(names, equation.primitive.name))


def _refuse(norm: _Call, rule: str, got: str) -> None:
    raise ValueError(f"to be folded, norm {norm.name} must {rule}, got {got}; {KEEP}")
