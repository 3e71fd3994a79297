"""The command line: `jaxdl data list` and `jaxdl data prepare NAME`."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence

# Wide enough for one line per set, which a program can read.
_PIPE_WIDTH = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 if it succeeded, 1 with one line on standard error if it did not.

    Arguments:
        argv: the arguments without the program's name; default `sys.argv[1:]`.

    Raises:
        SystemExit: 2 for arguments that are no command, 0 after `--help`.

    Example:
        >>> main(["data", "list"])
        Data sets...
        0
    """
    arguments = _parser().parse_args(argv)
    with _notices():
        try:
            arguments.command(arguments)
        except (ImportError, OSError, ValueError) as error:
            print(f"jaxdl: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxdl", description=__doc__)
    data = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
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
