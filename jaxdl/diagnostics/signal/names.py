"""The rows of a model: one for each site, and for each layer of a scan or of a vmap."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdl.tracing.levels import Level
from jaxdl.tracing.sites import ATTENTION, Site, Source

ACTIVATION = "activation"
PARAMETERS = "parameters"


@dataclass(frozen=True)
class Row:
    """A value of the model's forward pass, of one layer.

    Attributes:
        name: the module's path; for an activation the name of the row before, with "/activation".
            A layer of a scan or of a vmap has its number, "blocks[2]/dense".
        kind: the module's class; "activation"; or "parameters" of a plain function with parameters.
        site: the number of its site.
        layer: its number among the layers of the site.
        shape: the value's shape, the batch included.
        dtype: the value's dtype.
        parameters: the number of its parameters; 0 where an earlier row counts them.
        has_weights: whether it has parameters.
    """

    name: str
    kind: str
    site: int
    layer: int
    shape: tuple[int, ...]
    dtype: Any
    parameters: int
    has_weights: bool


def layer_axes(site: Site, layered: frozenset[Level]) -> dict[Source, int]:
    """The axes of layers in an array of the site's values, with axes of all scans around it."""
    scans = site.scans
    axes: dict[Source, int] = {scan: n for n, scan in enumerate(scans) if scan in layered}
    return axes | {number: len(scans) + axis for number, axis in site.mapped.items()}


def layer_sizes(site: Site, layered: frozenset[Level]) -> list[int]:
    """The lengths of the axes of layers."""
    scans = [scan.length for scan in site.scans if scan in layered]
    return scans + [site.shape[axis] for axis in site.mapped.values()]


def layers_of(site: Site, layered: frozenset[Level]) -> int:
    """How many rows the site has."""
    return math.prod(layer_sizes(site, layered))


class Namer:
    """Names the rows of a trace, level by level."""

    def __init__(
        self,
        sites: Sequence[Site],
        layered: frozenset[Level],
        paths: Sequence[tuple[str, ...]],
        sizes: Sequence[int],
    ) -> None:
        self.sites, self.layered, self.leaves, self.sizes = sites, layered, paths, sizes
        self.paths = _module_paths(sites, paths)
        self.names: dict[str, int] = {}
        self.last = ""
        self.counted: set[tuple[int, int]] = set()

    def of(
        self, level: Level, layer: int = 0, places: Sequence[tuple[int, int]] = ()
    ) -> Iterator[Row]:
        """The rows of a level, for one layer of the scans around it.

        Arguments:
            places: of each of these scans how many parts of a path lead to it, and the layer.
        """
        for step in level.steps:
            if step.scan is not None and step.scan in self.layered:
                length, depth = step.scan.length, self._depth(step.scan)
                for number in range(length):
                    yield from self.of(
                        step.scan, layer * length + number, (*places, (depth, number))
                    )
            elif step.scan is not None:
                yield from self.of(step.scan, layer, places)
            elif step.site is not None:
                site = self.sites[step.site]
                mapped = site.mapped
                members = math.prod(site.shape[axis] for axis in mapped.values())
                for member in range(members):
                    own = [(len(self.paths[step.site]), member)] if mapped else []
                    yield self._row(step.site, layer * members + member, [*places, *own])

    def _row(self, number: int, layer: int, places: Sequence[tuple[int, int]]) -> Row:
        site = self.sites[number]
        name, kind = self._name(number, places)
        self.names[name] = self.names.get(name, 0) + 1
        unique = name if self.names[name] == 1 else f"{name}:{self.names[name]}"
        if site.path is not None:
            self.last = unique
        times = [scan.length for scan in site.scans if scan not in self.layered]
        inside = [size for axis, size in enumerate(site.shape) if axis not in site.mapped.values()]
        count = 0
        for own in site.own:
            # The layers share a parameter that has no axis of them.
            here = (own.leaf, layer if own.axes else 0)
            if here not in self.counted:
                self.counted.add(here)
                layers = layers_of(site, self.layered) if own.axes else 1
                count += self.sizes[own.leaf] // layers
        return Row(
            unique, kind, number, layer, (*times, *inside), site.dtype, count, bool(site.own)
        )

    def _name(self, number: int, places: Sequence[tuple[int, int]]) -> tuple[str, str]:
        site, parts = self.sites[number], list(self.paths[number])
        if site.kind == ATTENTION:
            return "/".join([*self.last.split("/")[:-1], "weights"]), ATTENTION
        if site.path is None and not site.own:
            return f"{self.last}/{ACTIVATION}", ACTIVATION
        if site.path is None:
            leaves = [self.leaves[own.leaf] for own in site.own]
            parts = [*leaves[0][:-1], "+".join(leaf[-1] for leaf in leaves)]
        for depth, layer in places:
            place = min(depth or len(parts), len(parts)) - 1
            if parts:
                parts[place] += f"[{layer}]"
        name = "/".join(parts) or site.kind
        return (name, PARAMETERS) if site.path is None else (name + site.part, site.kind)

    def _depth(self, scan: Level) -> int:
        """How many parts the paths of all modules in a scan share."""
        inside = [
            path if site.path is not None else self.leaves[site.own[0].leaf][:-1]
            for site, path in zip(self.sites, self.paths, strict=True)
            if scan in site.scans and (site.path is not None or site.own)
        ]
        parts = zip(*inside, strict=False)
        return len(list(itertools.takewhile(lambda part: len(set(part)) == 1, parts)))


def _module_paths(
    sites: Sequence[Site], leaves: Sequence[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """The places of the sites' modules in the model.

    A module's parameters know its place. Its own path is another one if it is called by `apply`
    inside a module, or if `nn.jit` found its block in a cache, with the names of an earlier call.
    """
    found = []
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    for site in sites:
        path = site.path or ()
        read = [(leaves[own.leaf], own.depth) for own in site.own if own.depth is not None]
        if read:
            leaf, depth = read[0]
            place = leaf[: len(leaf) - depth]
            shared = 0
            while shared < min(len(path), len(place)) and path[-1 - shared] == place[-1 - shared]:
                shared += 1
            before, after = path[: len(path) - shared], place[: len(place) - shared]
            path = place
        elif before and path[: len(before)] == before:
            path = (*after, *path[len(before) :])
        found.append(path)
    return found
