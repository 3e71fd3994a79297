"""The empirical neural tangent kernel: how a step on one example changes the output of another."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxdl.checks import whole_number
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.kernel.contractions import Outputs, by_jacobians, by_products
from jaxdl.diagnostics.kernel.mapped_rows import has_forward
from jaxdl.diagnostics.objective import groups
from jaxdl.plotting import kernel_figure
from jaxdl.showing import counted, html_of, known, named, number
from jaxdl.training.task import Batch, as_measured, parts_of, scale_images, to_measure


@struct.dataclass
class TangentKernel:
    r"""The kernel of each group of parameters, between the examples of one batch or of two.

    $$\Theta(x, x') = J(x)\, J(x')^\top, \qquad J(x) = \partial f(x) / \partial \theta$$

    The fields have the axes of a `vmap` first.

    Attributes:
        kernel: (groups, n, m), the trace over the outputs divided by their number; or with all
            outputs (groups, n, m, outputs, outputs). In squared outputs per squared unit of the
            parameters.
        names: of the groups: "all", the layers' paths, or the patterns.
        outputs: the numbers that the model gives for an example.
        is_full: whether the kernel has the axes of outputs.
        is_square: whether both sides are the same batch.
    """

    kernel: Float[Array | np.ndarray, "..."]
    names: tuple[str, ...] = struct.field(pytree_node=False)
    outputs: int = struct.field(pytree_node=False)
    is_full: bool = struct.field(pytree_node=False)
    is_square: bool = struct.field(pytree_node=False)

    @property
    def total(self) -> Any:
        """The kernel of all groups together; groups that overlap count more than once."""
        return self.kernel.sum(-5 if self.is_full else -3)

    @property
    def matrices(self) -> Any:
        """The kernel with outputs in its rows and columns, (groups, n outputs, m outputs)."""
        if not self.is_full:
            return self.kernel
        *front, n, m, outputs, _ = self.kernel.shape
        moved = jnp.moveaxis(jnp.asarray(self.kernel), -2, -3)
        return moved.reshape(*front, n * outputs, m * outputs)

    @property
    def eigenvalues(self) -> Any:
        """Of each group's matrix from the largest down; (groups, values).

        Gradient descent on a squared error shrinks the error along an eigenvector by the factor
        exp(-rate x eigenvalue) a step, as long as the kernel stays.

        Raises:
            ValueError: the kernel is that of two batches.
        """
        if not self.is_square:
            raise ValueError(
                "eigenvalues need the kernel of one batch with itself, got that of two; leave out "
                "the second batch"
            )
        return jnp.linalg.eigvalsh(self.matrices)[..., ::-1]

    def table(self) -> Any:
        """A `rich.table.Table` of the groups: the mean of the diagonal, and its share."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        square = self.is_square
        columns = ["mean of\nthe diagonal" if square else "mean", "share"]
        columns += ["largest\neigenvalue", "condition\nnumber"] if square else []
        table.add_column("parameters", overflow="fold", min_width=10)
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        kernel = np.asarray(self.matrices, np.float64)
        kernel = kernel.reshape(-1, *kernel.shape[-3:])[0]  # the first of a map
        sizes = np.array([np.diag(each).mean() if square else each.mean() for each in kernel])
        for index, name in enumerate(self.names):
            cells = [number(sizes[index]), f"{sizes[index] / sizes.sum():.0%}"]
            if square:
                values = np.linalg.eigvalsh(kernel[index])
                condition = values[-1] / values[0] if values[0] > 0 else np.inf
                cells += [number(values[-1]), number(condition)]
            table.add_row(name, *cells)
        return table

    def plot(self) -> Any:
        """A matplotlib figure of the whole kernel, and of the eigenvalues if it has some."""
        matrix = np.asarray(self.matrices, np.float64).sum(-3)
        matrix = matrix.reshape(-1, *matrix.shape[-2:])[0]
        return kernel_figure(matrix, is_square=self.is_square)

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        *front, n, m = self.kernel.shape[:-2] if self.is_full else self.kernel.shape
        sizes = f"{n} x {m} examples, {counted(self.outputs, 'output')}"
        of = "" if self.names == ("all",) else f", {counted(len(self.names), 'group')}"
        values = known(self.kernel)
        if values is None or not values.size or not self.is_square or len(front) > 1:
            return f"TangentKernel({sizes}{of})"
        diagonal = np.diagonal(np.asarray(self.matrices, np.float64).sum(0)).mean()
        return f"TangentKernel({sizes}{of}: {named({'mean of the diagonal': number(diagonal)})})"

    def _repr_html_(self) -> str | None:
        return None if known(self.kernel) is None else html_of(repr(self), self.table())


def tangent_kernel(
    model: Any,
    variables: Any,
    batch: Batch,
    other: Batch | None = None,
    *,
    layers: Any = None,
    full: bool = False,
    products: bool | None = None,
    batch_size: int | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: Any = None,
) -> TangentKernel:
    r"""Measure the neural tangent kernel of a network of finite width, at its parameters.

    $$\Theta_{kl}(x, x') = \sum_{p} \frac{\partial f_k(x)}{\partial \theta_p}
      \frac{\partial f_l(x')}{\partial \theta_p}, \qquad
      \Theta(x, x') = \frac{1}{K} \sum_k \Theta_{kk}(x, x')$$

    A pure function, as `propagation`: it may be jitted, and mapped over keys or variables.

    The parameters are those of the model. In the standard parametrisation, which the layers here
    have, the kernel of a hidden layer grows with its width; `wide_networks` has both closed forms.

    Two forms give the same kernel. The first holds the Jacobians of some examples at a time and
    multiplies them. The second takes products with J^T and J in turn, without a Jacobian, and is
    cheaper for all outputs of a model with more than a few: 4 n m K P operations instead of
    2 n m K^2 P, for P parameters of which each is used once an example, as in dense layers.

    Arguments:
        model: a model of any library, which needs no change; or a `training.Task`.
        variables: what `model.init` returned, or `state.variables`; as in `propagation`.
        batch: {"inputs": (n, ...)}.
        other: {"inputs": (m, ...)}; None for the kernel of `batch` with itself.
        layers: None for all parameters together; "each", or patterns, as in `optimizers.by_layer`.
        full: whether to give every pair of outputs, K x K of each pair of examples.
        products: whether to take the second form. None takes it for all outputs, 4 or more, of all
            parameters together. But it takes the first for a model with `jax.custom_vjp`, as
            straight-through estimators have, which has no products with J.
        batch_size: examples whose Jacobians are held at a time; by default as many as 2^26 numbers
            have room for.
        train: whether dropout and batch statistics are on. If so, the outputs of an example may
            depend on the others, and each costs a gradient of the whole batch.
        key: the key of the dropout masks, if the model draws any.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        TypeError: no model, the key no `jax.random.key`, or layers that are no list of patterns.
        ValueError: no parameters, or a pattern that fits none; parameters or outputs that are not
            real; no examples; a `batch_size` below 1; products by layer, or of a model without a
            derivative forward.

    Example:
        >>> from jaxdl import diagnostics
        >>> def line(params, x):
        ...     return x @ params
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> diagnostics.tangent_kernel(line, jnp.ones((2, 3)), {"inputs": x}).total.tolist()
        [[1.0, 1.0], [1.0, 2.0]]

    Source: Jacot, Gabriel and Hongler (2018); Novak, Sohl-Dickstein and Schoenholz (2022) for the
    forms and their costs.
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    if layers is not None and not isinstance(layers, str):
        layers = tuple(layers)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size)
    if products and layers is not None:
        raise ValueError(
            "products give the kernel of all parameters together, got layers too; pass "
            "products=False"
        )
    measure = jit_with(_measure, (task, layers, full, products, batch_size, train))
    sides = [_inputs(each) for each in ((batch,) if other is None else (batch, other))]
    measured: TangentKernel = measure(variables, sides, key)
    return measured


def _inputs(batch: Batch) -> Any:
    parts = parts_of(batch)
    if "inputs" not in parts:
        raise ValueError(f"a batch must have the key 'inputs', got {sorted(parts)}; name it so")
    return parts["inputs"]


def _measure(
    settings: tuple[Any, ...], variables: Mapping[str, Any], sides: list[Any], key: Any
) -> TangentKernel:
    task, layers, full, products, batch_size, train = settings
    found = groups(variables["params"], layers)
    functions = [Outputs(task, variables, side, train, key) for side in sides]
    outputs = functions[0].outputs
    if products is not False and (products or (full and layers is None and outputs >= 4)):
        forward = has_forward(functions[0].all, variables["params"])
        if products and not forward:
            raise ValueError(
                "products need a derivative forward, got a model with jax.custom_vjp, which has "
                "none; leave products out"
            )
        products = forward
    if products:
        kernel = by_products(functions[0], functions[-1], variables["params"])[None]
        if not full:
            kernel = jnp.trace(kernel, axis1=-2, axis2=-1) / outputs
    else:
        kernel = by_jacobians(
            functions, variables["params"], found, full=full, batch_size=batch_size
        )
    return TangentKernel(
        kernel, names=tuple(group.name for group in found), outputs=outputs, is_full=full,
        is_square=len(sides) == 1,
    )  # fmt: skip
