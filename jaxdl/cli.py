"""The command line: `jaxdl data list`, `jaxdl data prepare NAME` and `jaxdl --version`."""

import argparse
import contextlib
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

from jaxdl.environment import versions

# Wide enough for one line per set, which a program can read.
_PIPE_WIDTH = 1_000

# What a report of a fault needs to know.
_PACKAGES = ("jaxdl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 if it succeeded, 1 with one line on standard error if it did not.

    Arguments:
        argv: the arguments without the program's name; default `sys.argv[1:]`.

    Raises:
        SystemExit: 2 for arguments that are no command, or for none; 0 after `--help`.

    Example:
        >>> main(["data", "list"])
        Data sets...
        0
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        print(_versions())
        return 0
    if not hasattr(arguments, "command"):
        parser.exit(2, parser.format_help())
    with _notices():
        try:
            arguments.command(arguments)
        except (ImportError, OSError, ValueError) as error:
            print(f"jaxdl: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxdl", description=__doc__)
    parser.add_argument(
        "--version", action="store_true", help="print what a report of a fault needs to say"
    )
    data = parser.add_subparsers(metavar="COMMAND").add_parser(
        "data", help="find and prepare data sets"
    )
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="list the data sets and where they were found")
    listing.set_defaults(command=_list)
    preparing = commands.add_parser(
        "prepare", help="write the copy that tensorflow-datasets reads, without TensorFlow"
    )
    preparing.add_argument("name", metavar="NAME", help="a data set that comes as files")
    preparing.set_defaults(command=_prepare)
    for command in (listing, preparing):
        command.add_argument(
            "--raw-dir", metavar="DIR", help="a folder of the release's files, as downloaded"
        )
        command.add_argument(
            "--data-dir",
            metavar="DIR",
            help="what jaxdl prepares and downloads; default $JAXDL_DATA_DIR or ~/.cache/jaxdl",
        )
    return parser


def _versions() -> str:
    """Versions, system, and the backends that JAX may use; JAX is not imported."""
    parts = [f"{package} {version}" for package, version in versions(*_PACKAGES).items()]
    parts.append(f"Python {platform.python_version()}")
    parts.append(f"{platform.system()} {platform.machine()}")
    backends = ["cpu", *sorted(each.name for each in metadata.entry_points(group="jax_plugins"))]
    if versions("libtpu")["libtpu"] != "not installed":
        backends.append("tpu")
    return f"{', '.join(parts)}; JAX's backends here: {', '.join(backends)}"


def _list(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from jaxdl.data import available

    table = Table(title="Data sets", title_justify="left")
    for heading in ("name", "kind", "task", "examples", "shape"):
        table.add_column(heading, no_wrap=True)
    # A path is shown whole, on several lines if needed.
    table.add_column("found", overflow="fold")
    for entry in available(data_dir=arguments.data_dir, raw_dir=arguments.raw_dir):
        shape = " x ".join(str(size) for size in entry.shape)
        row = (entry.name, entry.kind, entry.task, f"{entry.examples:,}", shape, entry.found)
        table.add_row(*[value.replace("[", r"\[") for value in row])
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def _prepare(arguments: argparse.Namespace) -> None:
    from jaxdl.data import prepare

    print(prepare(arguments.name, data_dir=arguments.data_dir, raw_dir=arguments.raw_dir))


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Print the notices of the data sets' logger on standard error while a command runs."""
    logger = logging.getLogger("jaxdl.data")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
