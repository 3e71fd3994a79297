"""Batch norms of a trained model become a part of the layers before them, if that is provable."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import Literal
from jaxtyping import Array

from jaxdl import models
from jaxdl.calling import GivenMode, call_model, name_of
from jaxdl.checks import is_traced
from jaxdl.compiling import traced_apart
from jaxdl.jaxprs import cut
from jaxdl.tracing.opened import written_out
from jaxdl.training.linear_norms import KEEP, Pair, find_pairs


def fold(
    model: Any, variables: Any, inputs: Any = None, *, mode: GivenMode = None
) -> tuple[nn.Module, dict[str, Any]]:
    r"""Fold each norm into the layer before it: the same function in evaluation, without norms.

    $$W' = W\,\frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}, \qquad
      b' = \beta + (b - \mu)\,\frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$$

    with mu and sigma^2 the running statistics. The outputs agree to the rounding of
    the layers' dtype. Use the result for evaluation only: without its norms the model trains
    differently.

    The model is traced, and two things are proved of its program, or it is refused. Each norm reads
    what a layer gives, nothing else reads this or their parameters, and each is called once. And
    the model with norm=None is this program without the norms, operation by operation.

    Arguments:
        model: a Linen module with a field `norm`, a factory of `jaxdl.layers.BatchNorm` or
            `flax.linen.BatchNorm`, which has no norms if this is None; as those of `jaxdl.models`.
            The layers are `nn.Dense`, `nn.Conv` and `nn.ConvTranspose`.
        variables: {"params": ..., "batch_stats": ...}.
        inputs: a batch of the model's inputs, after `preprocess`, or its `jax.ShapeDtypeStruct`s:
            nothing is computed with them, and what is proved holds for these shapes. Those of MLP,
            ConvNet, VGG and ResNet are known.
        mode: how the model is told of training, as in `training.Task`.

    Returns:
        (the model with norm=None, its variables without those of the norms).

    Raises:
        TypeError: no Linen module, e.g. one of NNX or Equinox; a model of one's own without inputs.
        ValueError: the model has no field `norm`; a norm that is not provably after a linear layer
            of its own (after an activation, a sum or a pooling, before a layer, shared, over
            another axis, in a scan, a vmap or a branch, of another kind), which is named; the model
            with norm=None differs in more than the norms; folded numbers that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import layers, models
        >>> x, model = jnp.ones((1, 3)), models.MLP([4, 1], norm=layers.BatchNorm)
        >>> variables = model.init(jax.random.key(0), x, train=False)
        >>> folded, without = fold(model, variables)
        >>> list(without), sorted(without["params"]["dense_0"])
        (['params'], ['bias', 'kernel'])
        >>> a, b = (m.apply(v, x, train=False) for m, v in ((model, variables), (folded, without)))
        >>> bool(jnp.allclose(a, b, rtol=1e-6))
        True

    Source: Jacob et al. (2018), eq. 14.
    """
    bare = _without_norms(model)
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise TypeError(
            "variables must be what model.init returned, a dictionary with 'params', got "
            f"{got}; pass what init or training returned"
        )
    variables = meta.unbox(unfreeze(dict(variables)))
    if inputs is None:
        inputs = _known_inputs(model, variables)

    def run(which: nn.Module) -> Callable[..., Any]:
        return lambda variables, inputs, key: call_model(
            which, variables, inputs, train=False, dropout_key=key, mode=mode
        )[0]

    arguments = jax.tree.map(_shape_of, (variables, inputs, jax.random.key(0)))
    pairs = find_pairs(run(model), *arguments)
    if not pairs:
        raise ValueError(
            "fold takes a model with batch norms that keep running statistics, got "
            f"{name_of(model)} without; {KEEP}"
        )
    folded = _folded(variables, pairs)
    arguments = jax.tree.map(_shape_of, (folded, inputs, jax.random.key(0)))
    _require_same(run(model), run(bare), arguments, pairs, name_of(model))
    return bare, folded


def _without_norms(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"fold takes a Flax Linen module, which it can build without norms, got "
            f"{type(model).__name__}; use a module of another library as it is, and of a Task pass "
            "task.model"
        )
    if not callable(getattr(model, "norm", None)):
        raise ValueError(
            "fold takes a model with a field norm=BatchNorm (or a partial of it), got "
            f"{name_of(model)} with norm={getattr(model, 'norm', None)!r}; there is no norm to "
            "leave out"
        )
    without: dict[str, Any] = {"norm": None}
    if getattr(model, "residual_start", None) == "zero_scale":  # how its norms are initialized
        without["residual_start"] = None
    return model.clone(**without)


def _known_inputs(model: Any, variables: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Inputs of the library's own models, of the least size that their parameters allow."""
    kernels = flatten_dict(variables["params"])

    def fan_in(*layer: str) -> int:
        path = (*layer, "kernel")
        if path not in kernels:
            raise ValueError(
                f"variables must be those of {name_of(model)}, got none at {'/'.join(path)}; pass "
                "what init or training returned"
            )
        found: int = kernels[path].shape[-2]
        return found

    shape: tuple[int, ...]
    if type(model) is models.MLP:
        shape = (2, fan_in("dense_0"))
    elif type(model) is models.ResidualMLP:
        shape = (2, fan_in("embed"))
    elif type(model) is models.ResNet:
        shape = (2, 8, 8, fan_in("conv_0"))
    elif type(model) in (models.ConvNet, models.VGG):
        size = 2 ** len(model.channels)
        positions = fan_in("head", "dense_0") // model.channels[-1]
        shape = (2, size * positions, size, fan_in("conv_0"))
    else:
        raise TypeError(
            f"fold must trace a model of your own to see what its norms read, got no inputs of "
            f"{name_of(model)}; pass fold(model, variables, inputs)"
        )
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    leaf = jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _folded(variables: Mapping[str, Any], pairs: list[Pair]) -> dict[str, Any]:
    """The variables with the norms folded into their layers, and without those of the norms."""
    flat = flatten_dict(variables, keep_empty_nodes=True)
    for pair in pairs:
        norm = {name: flat.pop(path) for name, path in pair.norm.items()}
        factor = norm.get("scale", 1.0) / jnp.sqrt(norm["var"] + pair.epsilon)
        kernel = flat[pair.kernel]
        own = 0.0 if pair.bias is None else flat[pair.bias]
        bias = norm.get("bias", 0.0) + (own - norm["mean"]) * factor
        new = {
            "kernel": (kernel * factor).astype(kernel.dtype),
            "bias": jnp.broadcast_to(bias, kernel.shape[-1:]).astype(kernel.dtype),
        }
        for name, value in new.items():
            _require_finite(f"the {name} of {'/'.join(pair.kernel[1:-1])}", value, pair.name)
            flat[(*pair.kernel[:-1], name)] = value
        flat.pop((*pair.norm["mean"][:-1], "count"), None)  # of a cumulative average
    folded: dict[str, Any] = unflatten_dict(flat)
    return folded


def _require_finite(what: str, value: Array, norm: str) -> None:
    if not is_traced(value) and not bool(jnp.isfinite(value).all()):
        raise ValueError(
            f"{what} must be finite with norm {norm} folded in, got NaN or infinity; check the "
            "norm's statistics with diagnostics.check_batch_norm"
        )


class _Program(NamedTuple):
    """A program as one can compare it: equal programs compute the same.

    Attributes:
        text: its operations.
        wires: the numbers of the inputs that they read, and what each output is.
        consts: its constants.
        called: the paths of the modules called.
    """

    text: str
    wires: tuple[Any, ...]
    consts: list[Any]
    called: dict[str, str]

    def is_same(self, other: "_Program") -> bool:
        return (
            (self.text, self.wires) == (other.text, other.wires)
            and len(self.consts) == len(other.consts)
            and all(map(_is_equal, self.consts, other.consts))
        )


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two constants are the same, to the bit."""
    one, other = (
        np.asarray(jax.random.key_data(each) if jnp.issubdtype(each.dtype, jax.dtypes.prng_key)
                   else each)
        for each in (jnp.asarray(one), jnp.asarray(other))
    )  # fmt: skip
    same = (one.shape, one.dtype) == (other.shape, other.dtype)
    return same and one.tobytes() == other.tobytes()


def _program(run: Callable[..., Any], arguments: Any, pairs: list[Pair]) -> _Program:
    """The program of a model in which the norms of the pairs give what they get."""
    layers, norms = ({pair.modules[place] for pair in pairs} for place in (0, 1))
    called: dict[str, str] = {}

    def leave_out(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if module.path in norms:
            return args[0] if args else kwargs["x"]
        called["/".join(module.path)] = type(module).__name__
        if module.path in layers:
            # `apply` calls a copy of the module, which lives only for the call.
            object.__setattr__(module, "use_bias", True)
        return call(*args, **kwargs)

    def left_out(*given: Any) -> Any:
        with traced_apart(), nn.intercept_methods(leave_out):
            return run(*given)

    traced, structure = jax.make_jaxpr(left_out, return_shape=True)(*arguments)
    program, _ = written_out(traced, everything=True)
    jaxpr = program.jaxpr
    (whole,) = cut(jaxpr, [], jaxpr.outvars)
    inputs = {atom: number for number, atom in enumerate([*jaxpr.constvars, *jaxpr.invars])}
    made = {atom: f"made {number}" for number, atom in enumerate(whole.gives)}
    outputs = [
        str(atom.val) if isinstance(atom, Literal) else made.get(atom, inputs.get(atom))
        for atom in jaxpr.outvars
    ]
    text = re.sub(r"0x[0-9a-f]+", "", str(whole.program))
    wires = (*(inputs[atom] for atom in whole.reads), *outputs, str(jax.tree.structure(structure)))
    return _Program(text, wires, program.consts, called)


def _require_same(
    model: Callable[..., Any],
    bare: Callable[..., Any],
    arguments: Any,
    pairs: list[Pair],
    name: str,
) -> None:
    """Refuse a model that without norms is more than itself with the norms left out."""
    expected = _program(model, arguments, pairs)
    rule = f"{name} with norm=None must be itself without the norms that are folded"
    try:
        found = _program(bare, arguments, [])
    except Exception as error:
        raise ValueError(f"{rule}, got an error when it was called: {error}; {KEEP}") from error
    if expected.is_same(found):
        return
    missing = [
        f"{path} ({kind})" for path, kind in expected.called.items() if path not in found.called
    ]
    if missing:
        got = f"a model without {', '.join(missing)}, too"
    else:
        got = "other operations (do its layers have biases then?)"
    raise ValueError(f"{rule}, got {got}; {KEEP}")
