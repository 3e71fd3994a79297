"""Warm start: take what fits from another model's variables, and say what was not taken."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import meta

Name = str
Renamed = Callable[[Name], Name | None]


@dataclass(frozen=True)
class TransferReport:
    """What `transfer` did; it prints as a table. Names are those of the target, with collection.

    Attributes:
        taken: what has the source's values now.
        left: what is as before, because the source has nothing of this name.
        unused: names of the source of which the target has nothing.
        mismatched: what is as before, because the shapes differ or the kinds of numbers: the target
            and the source, each "float32[5,10]".
        cast: of what was taken, the dtypes that were changed: the source's and the target's.
    """

    taken: tuple[Name, ...]
    left: tuple[Name, ...]
    unused: tuple[Name, ...]
    mismatched: Mapping[Name, tuple[str, str]] = field(default_factory=dict)
    cast: Mapping[Name, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("taken", name, self._note(name)) for name in self.taken]
        rows += [
            ("mismatched", name, f"{target} here, {source} in the source")
            for name, (target, source) in self.mismatched.items()
        ]
        rows += [("left", name, "not in the source") for name in self.left]
        rows += [("unused", name, "in the source only") for name in self.unused]
        width = max(len(name) for _, name, _ in rows)
        lines = [f"{kind:<10}  {name:<{width}}  {note}".rstrip() for kind, name, note in rows]
        return "\n".join([self._summary(), *lines])

    def __repr__(self) -> str:
        return f"TransferReport({self._summary()})"

    def _summary(self) -> str:
        kinds = ("taken", "mismatched", "left", "unused")
        return ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)

    def _note(self, name: Name) -> str:
        return "{} made {}".format(*self.cast[name]) if name in self.cast else ""


class Transferred(NamedTuple):
    """The variables after a transfer, and the report of it."""

    variables: dict[str, Any]
    report: TransferReport


def transfer(
    variables: Any, source: Any, *, names: Any = None, strict: bool = False
) -> Transferred:
    r"""Take from the variables of another model what agrees in name and shape.

    $$\theta_i \leftarrow \theta^{\text{source}}_i \quad \text{if names and shapes agree}$$

    All else stays as it was. All collections come along: running statistics of norms belong to
    the weights below them. What is taken gets the dtype that the target has.

    Arguments:
        variables: the target, {"params": ..., "batch_stats": ..., ...} as `model.init` returns or
            `state.variables`; not changed. Each collection is any pytree.
        source: variables of the same form, e.g. those of a trained state.
        names: how names of the source are to be read here. A name is a path without its collection,
            "encoder/dense_0/kernel". A mapping from beginnings, in whole parts, to others:
            {"encoder": "trunk"}; of several that fit, the longest counts. "" is the beginning of
            all: {"": "encoder"} takes a model as a part, {"encoder": ""} a part as a model. Or a
            function of a name that gives the new one, or None for what is not to be taken.
        strict: whether anything left, unused or mismatched is an error.

    Returns:
        The variables, and the report.

    Raises:
        TypeError: variables without "params"; names that are neither; a leaf that is no array.
        ValueError: nothing is taken; a beginning that no name of the source has; two names that
            become one; with `strict`, a difference.

    Example:
        >>> from jaxdl import models
        >>> x = jnp.ones((1, 4))
        >>> ten, five = (
        ...     models.MLP([8, classes]).init(jax.random.key(seed), x, train=False)
        ...     for seed, classes in enumerate((10, 5)))
        >>> variables, report = transfer(five, ten)
        >>> print(report)
        2 taken, 2 mismatched, 0 left, 0 unused
        taken       params/dense_0/bias
        taken       params/dense_0/kernel
        mismatched  params/dense_1/bias    float32[5] here, float32[10] in the source
        mismatched  params/dense_1/kernel  float32[8,5] here, float32[8,10] in the source

    Source: Yosinski, Clune, Bengio and Lipson (2014), for what transfers.
    """
    target, held = (_collections(*each) for each in (("variables", variables), ("source", source)))
    read = _reader(names, [name for leaves in held.values() for name in leaves])
    taken: dict[str, Any] = {}
    cast: dict[str, tuple[str, str]] = {}
    mismatched: dict[str, tuple[str, str]] = {}
    unused: list[Name] = []
    seen: dict[Name, Name] = {}
    for collection, leaves in held.items():
        for old_name, value in leaves.items():
            new_name = read(old_name)
            full, old_full = f"{collection}/{new_name}", f"{collection}/{old_name}"
            if new_name is None or new_name not in target.get(collection, {}):
                unused.append(old_full)
                continue
            if full in seen:
                raise ValueError(
                    f"names must differ, got {seen[full]} and {old_full} for the one {full}; leave "
                    "one out with a function that gives None"
                )
            seen[full] = old_full
            own = target[collection][new_name]
            if own.shape != value.shape or not _is_cast(value.dtype, own.dtype):
                mismatched[full] = (_kind(own), _kind(value))
                continue
            if own.dtype != value.dtype:
                cast[full] = (str(value.dtype), str(own.dtype))
            # A copy: a step may overwrite the state that it is given.
            taken[full] = jnp.array(value, own.dtype, copy=True)
    every = [f"{collection}/{name}" for collection, own in target.items() for name in own]
    report = TransferReport(
        taken=tuple(name for name in every if name in taken),
        left=tuple(name for name in every if name not in taken and name not in mismatched),
        unused=tuple(unused),
        mismatched={name: mismatched[name] for name in every if name in mismatched},
        cast={name: cast[name] for name in every if name in cast},
    )
    if not taken:
        raise ValueError(
            f"at least one array must be taken, got none:\n{report}\n"
            "say with names= how those of the source are called here"
        )
    if strict and (report.left or report.unused or report.mismatched):
        raise ValueError(
            f"with strict=True all must be taken, got:\n{report}\n"
            "rename with names=, or pass strict=False"
        )
    filled = {name: _filled(name, tree, taken) for name, tree in variables.items()}
    return Transferred(filled, report)


def _collections(what: str, variables: Any) -> dict[str, dict[Name, Any]]:
    """The arrays of each collection by name."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise TypeError(
            f'{what} must be a dictionary with "params", got {got}; pass what model.init returned, '
            'state.variables, or {"params": ...}'
        )
    found = {}
    for collection, tree in variables.items():
        leaves = {_name(path): meta.unbox(leaf) for path, leaf in _with_paths(tree)}
        for name, leaf in leaves.items():
            if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
                raise TypeError(
                    f"every leaf of {what} must be an array, got {type(leaf).__name__} at "
                    f"{collection}/{name}; wrap it in jnp.asarray"
                )
        found[collection] = leaves
    return found


def _with_paths(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_box)


def _is_box(node: Any) -> bool:
    return isinstance(node, meta.AxisMetadata)


def _name(path: Any) -> Name:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _reader(names: Any, known: Iterable[Name]) -> Renamed:
    """The name that one of the source has in the target."""
    if names is None:
        return lambda name: name
    if callable(names):
        return names  # type: ignore[no-any-return]  # any function
    if not isinstance(names, Mapping):
        raise TypeError(
            "names must be a mapping from beginnings of the source's names to others, or a "
            f'function of a name, got {type(names).__name__}; pass e.g. {{"encoder": "trunk"}}'
        )
    for beginning in names:
        if not any(_begins(name, beginning) for name in known):
            raise ValueError(
                f"names must be beginnings of names in the source, got {beginning!r}; they begin "
                f"with {', '.join(sorted({name.split('/')[0] for name in known}))}"
            )

    def read(name: Name) -> Name:
        fitting = [beginning for beginning in names if _begins(name, beginning)]
        if not fitting:
            return name
        beginning = max(fitting, key=len)
        rest = name[len(beginning) :].strip("/")
        return "/".join(part for part in (names[beginning], rest) if part)

    return read


def _begins(name: Name, beginning: Name) -> bool:
    return beginning in ("", name) or name.startswith(f"{beginning}/")


def _is_cast(source: Any, target: Any) -> bool:
    """Whether numbers of one kind become those of another without losing what they are."""
    if source == target:
        return True
    kinds = (jnp.floating, jnp.complexfloating, jnp.integer)
    of = [
        [index for index, kind in enumerate(kinds) if jnp.issubdtype(each, kind)]
        for each in (source, target)
    ]
    return bool(of[0]) and of[0] == of[1]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _filled(collection: str, tree: Any, taken: Mapping[str, Any]) -> Any:
    def filled(path: Any, old: Any) -> Any:
        new = taken.get(f"{collection}/{_name(path)}")
        if new is None:
            return old
        return old.replace_boxed(new) if _is_box(old) else new

    return jax.tree_util.tree_map_with_path(filled, tree, is_leaf=_is_box)
