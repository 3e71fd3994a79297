"""How a model of any library is called: its mode, random numbers, collections and arguments."""

from jaxdl.calling.adapt import adapt
from jaxdl.calling.adapted import Adapted, draws_unasked
from jaxdl.calling.call import (
    call_model,
    initial_variables,
    random_streams,
    require_mode,
    synchronized_norms,
)
from jaxdl.calling.modes import (
    GivenMode,
    Mode,
    arguments_of,
    in_mode,
    keywords_of,
    mode_of,
    name_of,
)
from jaxdl.calling.prepared import Prepared, prepared, to_share
from jaxdl.public import public_names

__all__ = [
    "Adapted",
    "GivenMode",
    "Mode",
    "Prepared",
    "adapt",
    "arguments_of",
    "call_model",
    "draws_unasked",
    "in_mode",
    "initial_variables",
    "keywords_of",
    "mode_of",
    "name_of",
    "prepared",
    "random_streams",
    "require_mode",
    "synchronized_norms",
    "to_share",
]

__dir__ = public_names(globals())
