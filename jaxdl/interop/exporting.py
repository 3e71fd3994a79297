"""A trained model as a program: it runs where JAX is, without Flax and without this library."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxdl.checks import Count, whole_number
from jaxdl.extras import import_extra
from jaxdl.files import as_path, partial_folder, publish, require_no_folder
from jaxdl.training import Result

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    result: Any,
    path: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    batch_size: Count | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Write what a result predicts as one file: StableHLO, with variables and preprocessing inside.

    The program takes raw inputs, as `fit` was given them. A float32 program gives the outputs of
    `result.predict` to rounding. It is read by JAX alone:

        exported = jax.export.deserialize(bytearray(open(path, "rb").read()))
        outputs = exported.call(inputs)

    JAX promises to read it for six months after it was written; keep `Result.save` beside it.

    Arguments:
        result: of `fit` or `training.load`.
        path: the file, replaced whole if it is there. Its folder is made.
        transform: a function of the outputs in JAX, such as `jax.nn.softmax`.
        batch_size: for a model that fixes it in its code; None makes a program for any.
        platforms: where the program shall run.

    Raises:
        IsADirectoryError: the path is a folder.
        TypeError: what is no result, or no path.
        ValueError: a result without `example`; a model that does not run for any batch size.
        ImportError: flatbuffers is not installed, in which JAX writes the file.

    Example:
        >>> import tempfile
        >>> from jaxdl import losses, models, optimizers, training
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> result = training.fit(
        ...     models.MLP([1]), (x, 2 * x), optimizers.sgd(0.5), epochs=20, batch_size=16,
        ...     loss=losses.mean_squared_error, key=jax.random.key(0))
        >>> path = tempfile.mkdtemp() + "/line.jaxexport"
        >>> export(result, path)
        >>> load_exported(path)(np.float32([[0.5], [1.0]])).round(3).tolist()
        [[1.0], [2.0]]
    """
    if not isinstance(result, Result):
        raise TypeError(
            f"result must be a training.Result, got {type(result).__name__}; pass what fit or "
            "training.load gives"
        )
    if result.example is None:
        raise ValueError("a result must know its inputs, got none in result.example; load it again")
    import_extra("flatbuffers", "an exported program", "interop")
    file = _as_file(path)
    require_no_folder(file)
    task = result.task
    # Off the devices of the run: the program runs on others.
    variables = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), result.state.evaluated)

    def predict(inputs: Any) -> Any:
        outputs, _ = task.outputs(variables, task.preprocess(inputs), train=False)
        return outputs if transform is None else transform(outputs)

    size: Any = (
        jax_export.symbolic_shape("batch")[0]
        if batch_size is None
        else whole_number("batch_size", batch_size)
    )
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), result.example
    )
    try:
        exported = jax_export.export(jax.jit(predict), platforms=list(platforms))(shapes)
    except Exception as error:
        if batch_size is not None:
            raise
        raise ValueError(
            f"a model must run for any batch size to be exported so, got {type(error).__name__}: "
            f"{str(error).splitlines()[0]}; pass batch_size=..., for which alone the program is "
            "then made"
        ) from error
    with partial_folder(file.parent) as partial:
        made = partial / file.name
        made.write_bytes(exported.serialize())
        publish(made, file)


def load_exported(path: Any) -> Callable[[Any], Any]:
    """The function (inputs) -> outputs of a file that `export` wrote; arrays of NumPy.

    Arguments:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: flatbuffers is not installed.
        TypeError: what is no path.
        ValueError: it is no exported program, or is cut off.

    Example: see `export`.
    """
    import_extra("flatbuffers", "an exported program", "interop")
    file = _as_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"path must be a file of export, got {file}, which is not there")
    try:
        exported = jax_export.deserialize(bytearray(file.read_bytes()))
    except Exception as error:  # of flatbuffers, struct, numpy or MLIR, by where the bytes end
        raise ValueError(
            f"{file} must be a whole file that export wrote, got one that cannot be read "
            f"({type(error).__name__}: {error}); write it again"
        ) from error
    call = jax.jit(exported.call)

    def predict(inputs: Any) -> Any:
        return jax.tree.map(np.asarray, call(jax.tree.map(jnp.asarray, inputs)))

    return predict


def _as_file(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must name a file, got {path!r}; pass a str or a Path")
    return as_path(path).absolute()
