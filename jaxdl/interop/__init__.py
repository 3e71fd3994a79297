"""To and from other libraries: PyTorch's state dicts, safetensors files."""

from jaxdl.interop.pytorch import from_state_dict, to_state_dict
from jaxdl.interop.safetensors_files import load_safetensors, save_safetensors

__all__ = ["from_state_dict", "load_safetensors", "save_safetensors", "to_state_dict"]
