"""What every benchmark has: arms timed in turns, rows with their targets, and a command line."""

from .command import options_of, result_of, run
from .rows import Row, amount, show
from .served import Served, serve
from .timing import measure, seconds_of

__all__ = [
    "Row",
    "Served",
    "amount",
    "measure",
    "options_of",
    "result_of",
    "run",
    "seconds_of",
    "serve",
    "show",
]
