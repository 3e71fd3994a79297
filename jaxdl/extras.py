"""Import packages that only an extra of this one installs, where they are used."""

import importlib
from types import ModuleType


def import_extra(module: str, use: str, extra: str = "experiments") -> ModuleType:
    """Import a package that may not be installed.

    Arguments:
        module: the module's name.
        use: what needs it, the beginning of the error's sentence.
        extra: the extra that installs it.

    Raises:
        ImportError: it is not installed; the message names the extra.

    Example:
        >>> import_extra("no_such_package", "a figure")
        Traceback (most recent call last):
        ...
        ImportError: a figure needs no_such_package, which is not installed;
        pip install "jaxdl[experiments]"
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{use} needs {module}, which is not installed; pip install "jaxdl[{extra}]"'
        ) from error
