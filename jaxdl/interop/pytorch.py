"""Variables from a state dict of PyTorch, and a state dict from variables."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdl.calling import GivenMode, Prepared
from jaxdl.interop.matching import own_names, told
from jaxdl.interop.model_layers import as_prepared, layers_of
from jaxdl.interop.moves import COUNT
from jaxdl.interop.packed import packed, slots, unpacked
from jaxdl.interop.partners import partners, shapes_of, unpaired
from jaxdl.interop.state_dicts import StateDict, read_state_dict
from jaxdl.interop.values import at_path, cast_to, from_start, require_variables
from jaxdl.models import Transformer, stack_blocks, unstack_blocks
from jaxdl.notices import notice


def from_state_dict(
    model: Any,
    state_dict: Any,
    sample_inputs: Any,
    *,
    names: Any = None,
    flattened: Any = None,
    unflattened: Any = None,
    strict: bool = True,
    start: Any = None,
    dtype: Any = None,
    mode: GivenMode = None,
) -> dict[str, Any]:
    """The variables of a model from a state dict of PyTorch.

    Kernels are transposed, images' channels go last, and the layer after a flattened image gets its
    inputs in this library's order: the program of the model says which layer that is. Tensors that
    pack several layers (`nn.MultiheadAttention`, `nn.LSTM`, `nn.GRU`, `nn.RNN`) are unpacked. The
    docs' page on PyTorch has the table. What no state dict says is the model's to have: padding,
    activations, a norm's epsilon (1e-5 in PyTorch and in `BatchNorm`; 1e-6 in Flax's LayerNorm and
    GroupNorm).

    Layers are paired as `names` says. Then those are paired that have one name on both sides, where
    "/", "_" and "." are the same and a prefix that all names share is left out:
    "layer1_0/bn1" is "net.layer1.0.bn1". The others are paired in order, the model's in order of
    execution and theirs as the state dict lists them, if both lists have the same shapes in the
    same places. If not, a layer is paired whose shapes occur once on each side, or layers whose
    names differ in their numbers alone, on each side and between the sides, by these numbers. Any
    layer left over is an error, on either side, and so are equal names with other shapes. A
    safetensors file is sorted by name, so its order says nothing; `names` helps.

    Arguments:
        model: a Linen module, or a `training.Task` of one.
        state_dict: names to tensors or arrays, e.g. `network.state_dict()`, or a path: a
            .safetensors file, which needs no PyTorch, or .pt, .pth or .bin. Tensors may have any
            floating dtype, device and strides, and a gradient.
        sample_inputs: inputs of the model, or their `jax.ShapeDtypeStruct`; only shapes count.
        names: from layers here to their names there, {"head/dense_0": "classifier.1"}. A pair also
            holds for what stands inside. "{}" is any number, {"block_{}/norm_0":
            "layers.{}.norm1"}. None for a layer says that it has no partner. Or a function of a
            layer's path, which may return None to leave it to the order.
        flattened: of layers that see a flattened image which the program does not show: its
            (height, width, channels) here; None says that both have one order.
        unflattened: the same of layers whose outputs become an image, as in a decoder.
        strict: whether layers without a partner are an error. If not, a warning lists them.
        start: with `strict=False`, variables whose values stay where the state dict has none, e.g.
            `model.init(key, inputs)`.
        dtype: of all floating variables; None takes each one's dtype in the model.
        mode: how the model is told of training, see `calling.mode_of`.

    Returns:
        {"params": ..., "batch_stats": ...} as `model.init` has them, without boxes of partitioned
        parameters. Other collections are no weights; take them from `model.init`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file needs a package that is not installed.
        TypeError: no Linen module, no state dict.
        ValueError: layers that have no partner, more than one, or one of another shape; a flattened
            image whose order is not known; a number that the dtype cannot hold.

    Example:
        >>> from jaxdl import models
        >>> theirs = {"0.weight": np.ones((2, 3)), "0.bias": np.zeros(2),
        ...           "2.weight": np.ones((1, 2)), "2.bias": np.zeros(1)}
        >>> variables = from_state_dict(models.MLP([2, 1]), theirs, np.ones((1, 3)))
        >>> variables["params"]["dense_0"]["kernel"].shape
        (3, 2)

    Source: the conventions of `torch.nn` and `flax.linen`; tests compare them.
    """
    found = as_prepared(model, mode)
    stacked, found = _one_by_one(found)
    if start is not None and strict:
        raise ValueError(
            "start must come with strict=False, got strict=True, which leaves nothing to it"
        )
    if start is not None:
        require_variables("start", start)
    _check_dtype(dtype)
    given = read_state_dict("state_dict", state_dict)
    start = unstack_blocks(start) if stacked and start is not None else start
    layers = layers_of(found, sample_inputs, flattened, unflattened)
    arrays = unpacked(given.arrays)
    matches = partners(found, layers, given, arrays, names)
    if matches.missing or matches.unused:
        if strict:
            raise ValueError(unpaired(found, matches, layers, arrays))
        notice(f"some layers have no partner\n{told(matches, layers, shapes_of(arrays))}")
    variables: dict[str, Any] = {}
    for layer in layers:
        unit = matches.pairs.get(layer.path)
        for (collection, path), move in layer.moves.items():
            kept = layer.dtypes[collection, path]
            wanted = kept if dtype is None or not jnp.issubdtype(kept, jnp.inexact) else dtype
            if unit is None:
                value = from_start(start, collection, path)
            else:
                name = _key(unit, move.name, arrays)
                if name not in arrays:
                    raise ValueError(f"the state dict must have {name}, got none of that name")
                value = jnp.asarray(cast_to(name, move.take(arrays[name]), wanted))
            place = variables.setdefault(collection, {})
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
    return stack_blocks(variables) if stacked else variables


def to_state_dict(
    model: Any,
    variables: Any,
    sample_inputs: Any,
    *,
    like: Any = None,
    names: Any = None,
    flattened: Any = None,
    unflattened: Any = None,
    dtype: Any = None,
    mode: GivenMode = None,
) -> dict[str, np.ndarray]:
    """A state dict of PyTorch from the variables of a model; the inverse of `from_state_dict`.

    `network.load_state_dict({name: torch.from_numpy(value) for name, value in found.items()})`
    loads it. Of a recurrence's two biases the second is zeros, since here they are one.

    Arguments:
        model: as of `from_state_dict`.
        variables: {"params": ..., "batch_stats": ...}, e.g. `state.variables`.
        sample_inputs: as of `from_state_dict`.
        like: the state dict to fill, e.g. `network.state_dict()`, or a path: its names, its order,
            its packed tensors, its count of batches. Without it names are those of the model with
            dots, or those of `names`, and attentions and recurrences are single layers.
        names: as of `from_state_dict`.
        flattened, unflattened: as of `from_state_dict`.
        dtype: of all floating arrays; None keeps each one's. PyTorch's `from_numpy` knows no
            bfloat16: pass np.float32.
        mode: as of `from_state_dict`.

    Returns:
        Names to NumPy arrays, which are copies; those that share memory in `like` share it here.

    Raises:
        TypeError: no Linen module, no state dict, variables that are no dictionary.
        ValueError: as `from_state_dict`; variables that do not fit the model.

    Example:
        >>> import jax
        >>> from jaxdl import models
        >>> model, inputs = models.MLP([2, 1]), jnp.ones((1, 3))
        >>> variables = model.init(jax.random.key(0), inputs, train=False)
        >>> found = to_state_dict(model, variables, inputs, names={"dense_{}": "layers.{}"})
        >>> {name: value.shape for name, value in found.items()}
        {'layers.0.weight': (2, 3), 'layers.0.bias': (2,), 'layers.1.weight': (1, 2), ...}
    """
    found = as_prepared(model, mode)
    stacked, found = _one_by_one(found)
    require_variables("variables", variables)
    _check_dtype(dtype)
    variables = nn.unbox(unstack_blocks(variables) if stacked else variables)
    layers = layers_of(found, sample_inputs, flattened, unflattened)
    given: StateDict | None = None
    if like is not None:
        given = read_state_dict("like", like)
        matches = partners(found, layers, given, unpacked(given.arrays), names)
        if matches.missing or matches.unused:
            raise ValueError(unpaired(found, matches, layers, unpacked(given.arrays)))
        pairs = matches.pairs
    else:
        pairs = own_names(layers, names)
    known = () if given is None else given.arrays
    arrays: dict[str, np.ndarray] = {}
    for layer in layers:
        for (collection, path), move in layer.moves.items():
            value = np.asarray(at_path(variables, collection, path, move.ours))
            if dtype is not None and jnp.issubdtype(value.dtype, jnp.inexact):
                value = cast_to("/".join(path), value, dtype)
            arrays[_key(pairs[layer.path], move.name, known)] = move.give(value)
        stats = {move.name for move in layer.moves.values()}
        if "running_mean" in stats:
            key = _key(pairs[layer.path], COUNT)
            counted = 0 if given is None else given.arrays.get(key, 0)
            arrays[key] = np.asarray(arrays.get(key, counted), np.int64)
    if given is None:
        return arrays
    return _filled(given, arrays)


def _one_by_one(found: Prepared) -> tuple[bool, Prepared]:
    """Whether a transformer scans its blocks, and the same with a name for each block."""
    if not (isinstance(found.model, Transformer) and found.model.blocks == "scan"):
        return False, found
    return True, found._replace(model=found.model.clone(blocks="plain"))


def _check_dtype(dtype: Any) -> None:
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"dtype must be a floating one, got {dtype!r}; pass e.g. np.float32")


def _filled(given: StateDict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict with the names of another; tensors that share memory there have one value."""
    layout = slots(given.arrays)
    whole = [name for name in layout if all(slot.name in arrays for slot in layout[name])]
    done = packed(whole, layout, arrays)
    for name, owner in given.tied.items():
        if name in done and not np.array_equal(done[name], done[owner], equal_nan=True):
            raise ValueError(
                f"{name} and {owner} must be equal, for they share memory in like, got two arrays; "
                "untie them there, or train a model that ties them"
            )
    return {name: done[name] if name in done else done[given.tied[name]] for name in layout}


def _key(unit: str, leaf: str, known: Any = ()) -> str:
    """The name of a variable there; a lone parameter may be the table of an nn.Embedding."""
    leaf = leaf or ("weight" if f"{unit}.weight" in known else "")
    return f"{unit}.{leaf}" if unit and leaf else unit or leaf
