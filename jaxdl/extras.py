"""Import packages that only an extra of this one installs, and say how to install them.

The command names the missing package itself, with the versions that this installation of jaxdl
asks for. So it is right wherever jaxdl came from: a checkout, a wheel or an index.
"""

import importlib
import re
from importlib import metadata
from types import ModuleType

DISTRIBUTION = "jaxdl-lab"
"""The name under which installers know the package `jaxdl`."""

# Packages that installers know under another name than `import` does.
_NAMES = {"sklearn": "scikit-learn"}


def import_extra(module: str, use: str, extra: str = "experiments") -> ModuleType:
    """Import a package that may not be installed.

    Arguments:
        module: the module's name.
        use: what needs it, the beginning of the error's sentence.
        extra: the extra of jaxdl that installs it.

    Raises:
        ImportError: it is not installed; the message has the command that installs it.

    An error of an installed package is raised as it is.

    Example:
        >>> import_extra("no_such_package", "a figure")
        Traceback (most recent call last):
        ...
        ImportError: a figure needs no_such_package, which is not installed;
        pip install "no_such_package" (part of the extra "experiments")
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # it is here, and misses something itself
        raise ImportError(
            f"{use} needs {error.name}, which is not installed; {install_command(module)} "
            f'(part of the extra "{extra}")',
            name=error.name,
        ) from error


def install_command(module: str) -> str:
    """The command that installs the package of a module.

    Without an installed jaxdl, as in a checkout on the path, no version is asked for.

    Example:
        >>> install_command("no_such_package.part")
        'pip install "no_such_package"'
    """
    package = module.partition(".")[0]
    name = _NAMES.get(package, package)
    return f'pip install "{_requirements().get(_canonical(name), name)}"'


def _requirements() -> dict[str, str]:
    """What the installed jaxdl asks for, with bounds, by the packages' names."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        lines = []
    asked = [line.partition(";")[0].strip() for line in lines]
    return {_canonical(re.split(r"[^\w.-]", each)[0]): each for each in asked}


def _canonical(name: str) -> str:
    """A name as installers compare it: -, _ and . are the same, and so are A and a."""
    return re.sub(r"[-_.]+", "-", name).lower()
