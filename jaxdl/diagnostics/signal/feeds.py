"""Who feeds whom: the values with a name from which another is computed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.extend.core import Literal, Var

from jaxdl.diagnostics.signal.rows import Trace
from jaxdl.jaxprs import scan_parts
from jaxdl.tracing.levels import Level

Steps = tuple[int, ...]
"""Of every scan over layers around a value, from the outside in, the step."""


def feeds_of(traced: Trace) -> tuple[tuple[int, ...], ...]:
    """The numbers of the rows that feed each row; -1 is the first input, -2 the second...

    What only decides a comparison, such as the mask of a padded text, carries no signal.
    """
    inputs = {variable: f"input {number}" for number, variable in enumerate(traced.inputs, start=1)}
    feeds = Feeds(traced, inputs, through_masks=False)
    numbers = {row.name: number for number, row in enumerate(traced.rows)}
    numbers |= {name: -number for number, name in enumerate(inputs.values(), start=1)}
    return tuple(
        tuple(numbers[name] for name in feeds.of_row(number)) for number in range(len(traced.rows))
    )


class Feeds:
    """The rows of a trace, and the inputs, as a graph.

    Arguments:
        traced: the model's rows.
        inputs: by a variable of the whole program the name of an input.
        through_masks: whether what decides a comparison feeds what depends on it.
    """

    def __init__(
        self, traced: Trace, inputs: Mapping[Var, str], *, through_masks: bool = True
    ) -> None:
        self.trace, self.inputs, self.through_masks = traced, inputs, through_masks
        self.site_of = {
            (site.level, root): number
            for number, site in enumerate(traced.sites)
            for root in {site.variable, site.root}
        }
        self.rows: dict[tuple[int, int], str] = {
            (row.site, row.layer): row.name for row in traced.rows
        }

    def of_row(self, number: int) -> list[str]:
        """The names that feed a row, in the order in which its equation reads them."""
        row = self.trace.rows[number]
        site = self.trace.sites[row.site]
        steps, layer = [], row.layer // self._members(row.site)
        for scan in reversed([scan for scan in site.scans if scan in self.trace.layered]):
            steps.append(layer % scan.length)
            layer //= scan.length
        equation = site.level.program.eqns[site.level.made_by[site.root]]
        return self._of(site.level, equation.invars, tuple(reversed(steps)))

    def of_output(self, atom: Any) -> list[str]:
        """The names that feed an output of the program."""
        return self._of(self.trace.top, [atom], ())

    def _of(self, level: Level, atoms: Sequence[Any], steps: Steps) -> list[str]:
        seen: set[Any] = set()
        names = (name for atom in atoms for name in self._names(level, atom, steps, seen))
        return list(dict.fromkeys(names))

    def _names(self, level: Level, atom: Any, steps: Steps, seen: set[Any]) -> Iterator[str]:
        """The nearest values with a name that this one is computed from."""
        if isinstance(atom, Literal) or (level, atom, steps) in seen:
            return
        if atom.aval.dtype == bool and not self.through_masks:
            return
        seen.add((level, atom, steps))
        if (number := self.site_of.get((level, atom))) is not None:
            layer = 0
            layered = [s for s in self.trace.sites[number].scans if s in self.trace.layered]
            for scan, step in zip(layered, steps, strict=True):
                layer = layer * scan.length + step
            members = self._members(number)
            yield from (self.rows[number, layer * members + m] for m in range(members))
        elif level.above is None and atom in self.inputs:
            yield self.inputs[atom]
        elif (place := level.made_by.get(atom)) is not None:
            equation = level.program.eqns[place]
            if place not in level.scans:
                reads = equation.invars
                if equation.primitive.name == "optimization_barrier":  # each of its own
                    reads = [reads[equation.outvars.index(atom)]]
                for read in reads:
                    yield from self._names(level, read, steps, seen)
                return
            scan, out = level.scans[place], equation.outvars.index(atom)
            for end in self._ends(scan, out):
                yield from self._names(scan, scan.program.outvars[out], (*steps, *end), seen)
        elif level.above is not None and atom in level.program.invars:
            yield from self._of_input(level, level.program.invars.index(atom), steps, seen)

    def _of_input(self, level: Level, index: int, steps: Steps, seen: set[Any]) -> Iterator[str]:
        assert level.scan is not None
        assert level.above is not None
        consts, carries = scan_parts(level.scan)
        is_carry = consts <= index < consts + carries
        outside = steps[:-1] if level in self.trace.layered else steps
        if is_carry and level in self.trace.layered:
            before = steps[-1] + (1 if level.scan.params["reverse"] else -1)
            if 0 <= before < level.length:
                carried = level.program.outvars[index - consts]
                yield from self._names(level, carried, (*outside, before), seen)
                return
        elif is_carry:
            yield from self._names(level, level.program.outvars[index - consts], steps, seen)
        yield from self._names(level.above, level.scan.invars[index], outside, seen)

    def _ends(self, scan: Level, out: int) -> list[Steps]:
        """The steps from which an output of a scan comes: the last one, or all of them."""
        assert scan.scan is not None
        if scan not in self.trace.layered:
            return [()]
        if out >= scan_parts(scan.scan)[1]:
            return [(step,) for step in range(scan.length)]
        return [(0 if scan.scan.params["reverse"] else scan.length - 1,)]

    def _members(self, number: int) -> int:
        members = 1
        for axis in self.trace.sites[number].mapped.values():
            members *= self.trace.sites[number].shape[axis]
        return members
