"""An optimizer, a rate, or no update at all for each layer, by its name."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.factories import factory


class LayersState(NamedTuple):
    """The states of the groups, in the order of their patterns; `()` for a frozen one."""

    groups: tuple[Any, ...]


@factory
def by_layer(optimizers: Any) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer for each group of parameters; None freezes a group.

    $$\theta^{(k)}_{t+1} = \theta^{(k)}_t + u^{(k)}_t, \qquad u^{(k)} = 0 \text{ if frozen}$$

    with u^(k) the update of the optimizer of group k, which sees the gradients and parameters of
    this group alone: a norm that it clips is the group's own. The groups are PyTorch's parameter
    groups. A frozen parameter keeps its bits, whatever decay stands inside, and has no moments. Its
    gradient is not computed, unless something else needs it. Clipping by the norm of all parameters
    does, if it stands before `by_layer`, and counts frozen ones. One norm of what is trained:
    `freeze(optax.chain(clip_by_global_norm(1.0), by_layer(...)), "embed")`.

    The running statistics of norms are no parameters: they move in training, frozen or not. A norm
    that shall stay as it is takes `BatchNorm(freeze_statistics=True)`.

    Arguments:
        optimizers: a mapping from patterns to optimizers, or None. A parameter's name is its path,
            "block_0/attention/query/kernel". A pattern is the name's beginning, in whole parts,
            or all of it; `*` stands for anything, also for several parts. "block_0" is all of
            that block, "block_*/norm_0" one norm of each, "*/bias" every bias inside a layer, and a
            last "*" the rest. The first pattern that fits counts.

    Raises:
        TypeError: no mapping, or one with other keys or values.
        ValueError: no pattern, or nothing that is not frozen; at init, a pattern that fits no
            parameter which an earlier one has left, or a parameter that no pattern fits.

    Example:
        >>> from jaxdl.optimizers import sgd
        >>> optimizer = by_layer({"head": sgd(1.0), "norm": None, "*": sgd(0.5)})
        >>> params = {"body": {"kernel": 1.0}, "norm": {"scale": 1.0}, "head": {"kernel": 1.0}}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> jax.tree.map(float, updates)
        {'body': {'kernel': -0.5}, 'head': {'kernel': -1.0}, 'norm': {'scale': 0.0}}

    Source: `torch.optim`'s parameter groups; `optax.partition`.
    """
    _check_groups(optimizers)
    patterns = tuple(optimizers)
    inner = [
        each if each is None else optax.with_extra_args_support(each)
        for each in optimizers.values()
    ]

    def init_fn(params: Any) -> LayersState:
        owners = _owners(patterns, params)
        return LayersState(
            tuple(
                () if each is None else each.init(part_of(params, owners, index))
                for index, each in enumerate(inner)
            )
        )

    def update_fn(
        updates: Any, state: LayersState, params: Any = None, **extra: Any
    ) -> tuple[Any, LayersState]:
        owners, states = _owners(patterns, updates), list(state.groups)
        moved = jax.tree.map(jnp.zeros_like, updates)
        for index, each in enumerate(inner):
            if each is None:
                continue
            own, states[index] = each.update(
                part_of(updates, owners, index),
                states[index],
                None if params is None else part_of(params, owners, index),
                **_extra_of_part(extra, updates, params, owners, index),
            )
            moved = put_part(own, moved, owners, index)
        return moved, LayersState(tuple(states))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@factory
def freeze(optimizer: Any, *names: Any) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that leaves some layers as they are: $\theta_{t+1} = \theta_t$ there.

    It is `by_layer({names: None, "*": optimizer})`, with the same patterns. Put it around
    everything else: `freeze(optax.chain(clip_by_global_norm(1.0), adamw(1e-4)), "encoder")`. Then
    clipping, decay, averages and accumulated gradients neither see nor hold what is frozen, as in
    PyTorch where `requires_grad` is False.

    Arguments:
        optimizer: what trains the rest.
        names: names or patterns of what is frozen, as in `by_layer`.

    Raises:
        TypeError: an optimizer or a name that is none.
        ValueError: no name; at init, a name that fits no parameter, or nothing left to train.

    Example:
        >>> from jaxdl.optimizers import adam
        >>> params = {"encoder": {"kernel": jnp.ones(3)}, "head": {"kernel": jnp.ones(2)}}
        >>> state = freeze(adam(1e-3), "encoder").init(params)
        >>> [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape]        # two moments
        [(2,), (2,)]
    """
    if not names:
        raise ValueError(
            'freeze needs the names of what is frozen, got none; pass e.g. "encoder", or the '
            "optimizer alone"
        )
    for name in names:
        _check_pattern(name)
    if "*" in names:
        raise ValueError(
            f"freeze must leave something to train, got {', '.join(map(repr, names))}; name single "
            "layers"
        )
    return by_layer({**dict.fromkeys(names), "*": optimizer})


def _check_groups(optimizers: Any) -> None:
    if not isinstance(optimizers, Mapping):
        raise TypeError(
            "by_layer needs a mapping from names to optimizers, got "
            f'{type(optimizers).__name__}; pass e.g. {{"head": adam(1e-3), "*": None}}'
        )
    for pattern, optimizer in optimizers.items():
        _check_pattern(pattern)
        if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"{pattern!r} must have an optimizer, or None to be frozen, got {optimizer!r}; "
                "pass e.g. adam(1e-3)"
            )
    if all(optimizer is None for optimizer in optimizers.values()):
        raise ValueError(
            f"by_layer needs an optimizer for at least one group, got {dict(optimizers)}; pass "
            'e.g. {"head": adam(1e-3), "*": None}'
        )


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, str):
        raise TypeError(
            f'a pattern must be a string such as "head" or "*/bias", got {pattern!r}; pass one '
            'string for each, and "*" for the rest'
        )


def _owners(patterns: tuple[str, ...], tree: Any) -> list[int]:
    """For each leaf the index of its pattern."""
    names = list(names_of(tree))
    if not names:
        return []
    owners = [_owner(patterns, name) for name in names]
    listed = _listed(names)
    for index, pattern in enumerate(patterns):
        if index not in owners:
            taken = any(fits(pattern, name) for name in names)
            why = "only parameters of earlier patterns" if taken else "none"
            raise ValueError(
                f"a pattern must fit a parameter that no earlier one fits, and {pattern!r} fits "
                f"{why} of {listed}; {'move it up' if taken else 'rename it'}, or leave it out"
            )
    left = [name for name, owner in zip(names, owners, strict=True) if owner is None]
    if left:
        raise ValueError(
            f"every parameter must fit a pattern, and {_listed(left)} fit none of "
            f'{", ".join(map(repr, patterns))}; add "*" for the rest, with None to freeze it'
        )
    return [owner for owner in owners if owner is not None]


def _owner(patterns: tuple[str, ...], name: str) -> int | None:
    fitting = (index for index, pattern in enumerate(patterns) if fits(pattern, name))
    return next(fitting, None)


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern is the beginning of a parameter's name, in whole parts, or all of it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")


def names_of(tree: Any) -> Iterator[str]:
    """The path of each leaf, "block_0/attention/query/kernel"."""
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def part_of(tree: Any, owners: list[int], index: int) -> Any:
    """The tree with the leaves of one group; nodes without leaves stand for all others."""
    structure: Any = jax.tree.structure(tree)
    leaves = jax.tree.leaves(tree)
    return structure.unflatten(
        leaf if owner == index else optax.MaskedNode()
        for leaf, owner in zip(leaves, owners, strict=True)
    )


def put_part(part: Any, whole: Any, owners: list[int], index: int) -> Any:
    """The whole tree with the leaves of one group from its part."""
    structure: Any = jax.tree.structure(whole)
    leaves = jax.tree.leaves(whole)
    own = iter(jax.tree.leaves(part))
    return structure.unflatten(
        next(own) if owner == index else leaf for leaf, owner in zip(leaves, owners, strict=True)
    )


def _extra_of_part(
    extra: Mapping[str, Any], updates: Any, params: Any, owners: list[int], index: int
) -> dict[str, Any]:
    """What a step tells an optimizer, for one group: functions vary it and keep the others."""
    structure: Any = jax.tree.structure(updates)

    def own(value: Any) -> Any:
        return part_of(value, owners, index) if jax.tree.structure(value) == structure else value

    def of_part(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda part, *rest, **named: own(
            function(put_part(part, params, owners, index), *rest, **named)
        )

    return {
        name: of_part(given) if name in ("value_fn", "grad_fn") and given else own(given)
        for name, given in extra.items()
    }
