"""To and from other libraries: PyTorch's state dicts, safetensors files, StableHLO programs."""

from jaxdl.interop.exporting import export, load_exported
from jaxdl.interop.pytorch import from_state_dict, to_state_dict
from jaxdl.interop.safetensors_files import load_safetensors, save_safetensors
from jaxdl.public import public_names

__all__ = [
    "export",
    "from_state_dict",
    "load_exported",
    "load_safetensors",
    "save_safetensors",
    "to_state_dict",
]

__dir__ = public_names(globals())
