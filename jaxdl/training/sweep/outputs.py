"""The metrics of a sweep: alike for every member, with names for their own axes."""

from collections.abc import Mapping, Sequence

from jaxdl.training.sweep.axes import Axis
from jaxdl.training.sweep.program import Program


def check_outputs(programs: Sequence[Program], axes: Sequence[Axis]) -> None:
    """Refuse metrics that differ between static members, or are named like a setting."""
    shapes = [{n: (o.shape, str(o.dtype)) for n, o in p.outputs.items()} for p in programs]
    fixed = [axis.name for axis in axes if axis.static]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise ValueError(
                f"metrics must have the same names and shapes for every value of {fixed}, got "
                f"{shapes[0]} and {other}; reduce them in run, or sweep them apart"
            )
    taken = {axis.name for axis in axes} | {"seed"}
    if clash := sorted(taken & shapes[0].keys()):
        raise ValueError(f"metrics must not be named like settings, got {clash}; rename them")


def dims_of(
    program: Program, axes: Sequence[Axis], dims: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """The names of each metric's own axes."""
    if unknown := [name for name in dims if name not in program.outputs]:
        raise ValueError(f"dims must name metrics, {list(program.outputs)}, got {unknown}")
    sizes: dict[str, int] = {axis.name: -1 for axis in axes} | {"seed": -1}
    named = {}
    for metric, output in program.outputs.items():
        rank = len(output.shape)
        own = dims.get(metric, [f"{metric}_dim_{i}" for i in range(rank)])
        if isinstance(own, str) or len(own) != rank or len(set(own)) < rank:
            raise ValueError(
                f"dims[{metric!r}] must be {rank} different names, for shape {output.shape}, got "
                f"{own!r}"
            )
        for name, size in zip(own, output.shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise ValueError(
                    f"the axis {name!r} must have one length, got {size} in {metric} and another "
                    "elsewhere; pass another name in dims"
                )
        named[metric] = tuple(own)
    return named
