"""A model as a graph: who feeds whom, for Graphviz, a notebook or TensorBoard."""

import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxdl.calling import GivenMode
from jaxdl.diagnostics.signal.feeds import Feeds
from jaxdl.diagnostics.signal.rows import Trace, trace_shapes
from jaxdl.showing import counted
from jaxdl.training.task import as_measured, scale_images

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Node:
    """A value of a model.

    Attributes:
        name: the name of a row of `propagation`, such as "block_0/conv"; or "input", "output", with
            the place in the inputs or outputs where there are several.
        kind: the module's class, "activation", "input" or "output".
        shape: the value's shape, the batch axis included.
        parameters: learned numbers of the module; 0 where an earlier node counts them.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int = 0


@dataclass(frozen=True)
class Graph:
    """The values of a model, and which are computed from which.

    Attributes:
        nodes: in order of execution.
        edges: pairs of names (source, target).
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def dot(self) -> str:
        """The graph in the language of Graphviz; modules of one block stand in one box."""
        lines = [
            "digraph model {",
            '  node [shape=box, style="rounded,filled", fillcolor="#f4f4f4"];',
            '  graph [fontname="Helvetica"]; node [fontname="Helvetica"];',
            *_boxes(self.nodes, (), "  "),
            *(f"  {_quoted(source)} -> {_quoted(target)};" for source, target in self.edges),
            "}",
        ]
        return "\n".join(lines) + "\n"

    def svg(self) -> str:
        """The drawing as SVG, made by Graphviz's program `dot`.

        Raises:
            RuntimeError: `dot` is not installed.
        """
        if shutil.which("dot") is None:
            raise RuntimeError(
                "a drawing needs Graphviz's program dot, got none on the PATH; "
                "apt install graphviz, or draw the text of Graph.dot() elsewhere"
            )
        drawn = subprocess.run(
            ["dot", "-Tsvg"], input=self.dot(), capture_output=True, text=True, check=True
        )
        return drawn.stdout

    def __repr__(self) -> str:
        return f"Graph({counted(len(self.nodes), 'node')}, {counted(len(self.edges), 'edge')})"

    def _repr_svg_(self) -> str | None:
        return self.svg() if shutil.which("dot") else None


def graph(
    model: Any,
    inputs: Any,
    *,
    train: bool = False,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
    variables: Any = None,
) -> Graph:
    """The values of a model's forward pass and their dependencies, without computing anything.

    Arguments:
        model: a model of any library, see `calling.adapt`, or a `training.Task`.
        inputs: (batch, ...), arrays or `jax.ShapeDtypeStruct`s.
        train: whether dropout and batch statistics are on.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.
        variables: as in `propagation`, or their shapes and dtypes; needed of a function. None takes
            the shapes of what `init` draws.

    Raises:
        TypeError: the model is no module.
        ValueError: a model without layers.

    Example:
        >>> from jaxdl import models
        >>> drawn = graph(models.MLP([4, 2]), jax.ShapeDtypeStruct((8, 3), "float32"))
        >>> drawn.edges[0], drawn.edges[-1]
        (('input', 'dense_0'), ('dense_1', 'output'))
        >>> [node.parameters for node in drawn.nodes]
        [0, 16, 0, 10, 0]
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    return _graph_of(*trace_shapes(task, inputs, train=train, variables=variables))


def _graph_of(traced: Trace, variables: Mapping[str, Any], inputs: Any) -> Graph:
    read = _named(INPUT, inputs)
    program = traced.top.program
    feeds = Feeds(traced, dict(zip(traced.inputs, read, strict=True)))
    nodes = [Node(name, INPUT, tuple(leaf.shape)) for name, leaf in read.items()]
    edges: list[tuple[str, str]] = []
    for number, row in enumerate(traced.rows):
        nodes.append(Node(row.name, row.kind, row.shape, row.parameters))
        edges += [(name, row.name) for name in feeds.of_row(number)]
    given = program.outvars
    outputs = _named(OUTPUT, jax.tree.unflatten(traced.structure, [atom.aval for atom in given]))
    for (name, value), atom in zip(outputs.items(), given, strict=True):
        nodes.append(Node(name, OUTPUT, tuple(value.shape)))
        edges += [(source, name) for source in feeds.of_output(atom)]
    return Graph(tuple(nodes), tuple(edges))


def _named(name: str, tree: Any) -> dict[str, Any]:
    """The leaves by name: the name alone for a single leaf, else with its place."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if len(leaves) == 1:
        return {name: leaves[0][1]}
    return {
        f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf
        for path, leaf in leaves
    }


def _boxes(nodes: Iterable[Node], path: tuple[str, ...], indent: str) -> list[str]:
    """The nodes; those of a block that has several stand in a box with its name."""
    blocks: dict[str, list[Node]] = {}
    for node in nodes:
        parts = node.name.split("/")
        # An activation belongs beside the module whose name it carries.
        depth = len(parts) - (2 if parts[-1].split(":")[0] == "activation" else 1)
        inside = len(path) < depth
        blocks.setdefault(parts[len(path)] if inside else node.name, []).append(node)
    lines = []
    for name, members in blocks.items():
        if len(members) == 1 or name == members[0].name:
            lines += [f"{indent}{_quoted(node.name)} [label={_label(node)}];" for node in members]
            continue
        below = (*path, name)
        lines += [
            f"{indent}subgraph {_quoted('cluster_' + '/'.join(below))} {{",
            f'{indent}  label={_quoted(name)}; color="#999999";',
            *_boxes(members, below, indent + "  "),
            f"{indent}}}",
        ]
    return lines


def _label(node: Node) -> str:
    lines = [node.name if node.kind in (INPUT, OUTPUT) else node.name.split("/")[-1]]
    if node.kind not in (INPUT, OUTPUT, lines[0].split(":")[0]):
        lines.append(node.kind)
    lines.append(" x ".join(map(str, node.shape)))
    if node.parameters:
        lines.append(f"{node.parameters:,} parameters")
    return _quoted("\n".join(lines))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
