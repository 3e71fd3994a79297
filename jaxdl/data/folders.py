"""Images in folders that are named after their classes."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl.checks import require_at_least, whole_number
from jaxdl.data.image_files import ImageFiles, read_image
from jaxdl.data.streamed import Streamed
from jaxdl.data.types import DataError, Dataset
from jaxdl.files import as_path
from jaxdl.notices import notice

_JPEG, _PAGES = (".jpg", ".jpeg", ".jfif"), (".tif", ".tiff")
_PLAIN = (".ppm", ".pgm", ".pbm", ".pnm")
_ENDINGS = (*_JPEG, ".png", ".gif", ".bmp", ".webp", ".avif", *_PAGES, *_PLAIN)
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
# What systems leave in folders, beside names that begin with a dot.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


def from_folder(
    folder: Any, *, size: Any = None, crop: bool = False, grey: bool = False, threads: Any = 1
) -> Dataset:
    r"""Images in class folders, each decoded only when a batch needs it.

    The folder looks like one of these. The second has a training split only, for `split` to cut.

        photographs/train/cat/1.jpg           photographs/cat/1.jpg
        photographs/train/dog/2.jpg           photographs/dog/2.jpg
        photographs/validation/cat/3.jpg
        photographs/test/cat/4.jpg

    `training`, `val`, `valid` and `testing` are names of splits too, in any case. Classes are the
    sorted names of the training split's folders; the label of an image is its class's number.
    Images lie in order of their names, on any machine, also those in folders of a class folder.
    Links are followed. An image is a file that ends on .jpg, .jpeg, .jfif, .png, .gif, .bmp, .webp,
    .avif, .tif, .tiff, .ppm, .pgm, .pbm or .pnm, in any case. A warning names other files, and
    class folders without images. Hidden files and `Thumbs.db` are left out without a word.

    An image is turned as its camera noted (EXIF), and converted to RGB, or to brightness. Its
    transparency is left out. The values are 0 to 255; `fit` divides them by 255.

    Arguments:
        folder: the path.
        size: (height, width) in pixels, to which every image is resized, bilinearly and without
            aliasing. None if all have the size of the first training image; another is then refused
            when it is read.
        crop: how to resize: True keeps an image's proportions and cuts off both ends of its longer
            side, False stretches it.
        grey: whether to give 1 channel, the brightness, in the place of 3.
        threads: batches decoded at the same time.

    Returns:
        A `Dataset` of the folder's name, whose splits are `Streamed`: an example has the inputs
        (height, width, channels) uint8, and an int32 target. For each split, say `train`,
        `dataset.train.targets` are the labels, and `dataset.train.source.paths` the files; neither
        reads an image. So `split(dataset, key=key, stratify=dataset.train.targets)` keeps the
        shares of the classes. `data.Arrays(**dataset.train.read(np.arange(len(dataset.train))))`
        holds a small split in memory.

    Raises:
        DataError: no such folder; no class folders, or only one; a split without images; a class
            that the training split has not; a folder beside the splits; two folders for one split;
            a link that leads nowhere or back; a first image that cannot be read. When a batch is
            read: an image that is damaged, of another size, of several frames, or of more than 8
            bits a channel. The message names the file.
        ValueError: a size that is no pair of at least 1 pixel.
        TypeError: a folder that is no path; pixels or threads that are no whole numbers.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (40, 30), "red").save(folder / name / "1.png")
        >>> pets = from_folder(folder, size=(15, 20))
        >>> pets.classes, pets.train.targets.tolist(), pets.train.source[1]["inputs"].shape
        (('cat', 'dog'), [0, 1], (15, 20, 3))

    The layouts are those of torchvision's `ImageFolder`.
    """
    root = _checked_folder(folder)
    pixels = _checked_size(size)
    require_at_least(1, threads=threads)
    listed = {split: _classes_of(path) for split, path in _split_folders(root).items()}
    classes = _checked_classes(root, listed)
    files = {split: _files_of(split, found, classes) for split, found in listed.items()}
    _tell_what_is_left_out(root, listed)
    first = files["train"][0][0]
    resize = pixels is not None
    if pixels is None:
        height, width, _ = read_image(first).shape
        pixels = (height, width)
    splits = {
        split: Streamed(
            ImageFiles(tuple(paths), np.array(labels, np.int32), pixels, resize, crop, grey),
            prefetch=max(2, int(threads)),
            threads=int(threads),
        )
        for split, (paths, labels) in files.items()
    }
    return Dataset(
        root.resolve().name,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        classes,
    )


class _Found(NamedTuple):
    """The paths of images and of other files."""

    images: list[str]
    others: list[str]


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split: the whole folder is the training split if no folder is named so."""
    inside = [entry.name for entry in _entries(root) if entry.is_dir()]
    if not any(_SPLIT_OF.get(name.lower()) == "train" for name in inside):
        if inside and all(name.lower() in _SPLIT_OF for name in inside):
            raise DataError(
                f"{root} must hold a folder named train beside its other splits, got "
                f"{', '.join(inside)}; rename one to train"
            )
        return {"train": root}
    folders: dict[str, Path] = {}
    for name in inside:
        split = _SPLIT_OF.get(name.lower())
        if split is None:
            raise DataError(
                f"{root} must hold splits only (train, validation, test), as it holds a folder of "
                f"training images, got {name}; rename it, or move it away"
            )
        if split in folders:
            raise DataError(
                f"{root} must hold one folder for each split, got {folders[split].name} and "
                f"{name} for {split}; merge them"
            )
        folders[split] = root / name
    return folders


def _classes_of(folder: Path) -> dict[str, _Found]:
    """What each class folder of a split holds; under "" what lies beside the class folders."""
    found = {"": _Found([], [])}
    for entry in _entries(folder):
        if entry.is_dir():
            inside = found.setdefault(_plain(entry.name), _Found([], []))
            _list_files(folder / entry.name, inside, {folder.resolve()})
        else:
            found[""].others.append(entry.path)
    return found


def _list_files(folder: Path, found: _Found, above: set[Path]) -> None:
    here = folder.resolve()
    if here in above:
        raise DataError(f"links must not lead back, got {folder} that is {here}; remove it")
    for entry in _entries(folder):
        if entry.is_dir():
            _list_files(folder / entry.name, found, above | {here})
            continue
        is_image = entry.name.lower().endswith(_ENDINGS)
        if is_image and entry.is_symlink() and not os.path.exists(entry.path):
            raise DataError(
                f"links must lead to files, got {entry.path} to {os.readlink(entry.path)}; remove "
                "it, or restore its file"
            )
        (found.images if is_image else found.others).append(entry.path)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        kept = [e for e in entries if e.name[0] != "." and e.name.lower() not in _LITTER]
    return iter(sorted(kept, key=lambda entry: (_plain(entry.name), entry.name)))


def _plain(name: str) -> str:
    """A name with its accents as one sign each: systems store them differently."""
    return unicodedata.normalize("NFC", name)


def _checked_classes(root: Path, listed: dict[str, dict[str, _Found]]) -> tuple[str, ...]:
    classes = tuple(name for name in listed["train"] if name)
    if len(classes) < 2:
        raise DataError(
            f"{root} must hold a folder of images for each class, at least 2, in its training "
            f"split, got {', '.join(classes) or 'none'}; pass the folder that holds train, or the "
            "class folders"
        )
    for split, found in listed.items():
        unknown = [name for name in found if name and name not in classes]
        if unknown:
            raise DataError(
                f"the {split} split must have classes of the training split, {_few(classes)}, got "
                f"{_few(unknown)}; rename the folder, or add the class to the training split"
            )
        if not any(inside.images for name, inside in found.items() if name):
            raise DataError(
                f"every split must have images in class folders, got none for {split} of {root}; "
                "add some, or remove the split's folder"
            )
    return classes


def _files_of(
    split: str, found: dict[str, _Found], classes: Sequence[str]
) -> tuple[list[str], list[int]]:
    """The images of a split and their labels, class by class."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = found[name].images if name in found else []
        paths += images
        labels += [label] * len(images)
    return paths, labels


def _tell_what_is_left_out(root: Path, listed: dict[str, dict[str, _Found]]) -> None:
    others = [
        path for found in listed.values() for inside in found.values() for path in inside.others
    ]
    if others:
        notice(
            f"{len(others)} files of {root} are left out, being no images in class folders by "
            f"their names; the first is {others[0]}"
        )
    empty = [
        f"{name} of {split}"
        for split, found in listed.items()
        for name, inside in found.items()
        if name and not inside.images
    ]
    if empty:
        notice(f"class folders without images in {root}: {_few(empty)}")


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _checked_folder(folder: Any) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(
            f"folder must be a path, got {type(folder).__name__}; pass e.g. 'photographs'"
        )
    root = as_path(os.fspath(folder)).absolute()
    if not root.is_dir():
        raise DataError(f"folder must be a folder of images, got {root}, which is none; check it")
    return root


def _checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if np.ndim(size) != 1 or len(size) != 2:
        raise ValueError(f"size must be (height, width), got {size!r}; pass e.g. (64, 64)")
    return whole_number("height", size[0]), whole_number("width", size[1])
