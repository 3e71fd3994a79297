"""The sets that come as files: their contents, and where they are published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxdl.data.cifar import locate_cifar10, read_cifar10_set
from jaxdl.data.idx import locate_idx, read_idx_set
from jaxdl.data.published import Published
from jaxdl.data.types import Arrays


@dataclass(frozen=True)
class FileSet:
    """A set that is read from files.

    Arguments:
        name: the name in `load` and in tensorflow-datasets.
        description: a sentence about the set.
        version: the version under which tensorflow-datasets stores it.
        shape: (height, width, channels) of each image.
        classes: the names of labels 0, 1, ...
        examples: the numbers of published images, (train, test).
        published: the files of the release.
        locate: (folder) -> its raw files by name; may raise `DataError`.
        read: (files from `locate`, number of classes, shape) -> [train, test].
        system_folders: where a system's package puts the raw files.
    """

    name: str
    description: str
    version: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    examples: tuple[int, int]
    published: tuple[Published, ...]
    locate: Callable[[Path], dict[str, Path]]
    read: Callable[[Mapping[str, Path], int, tuple[int, ...]], list[Arrays]]
    system_folders: tuple[Path, ...] = ()


def _idx_release(
    base: str, files: dict[str, tuple[int, str]], contents: dict[str, str] | None = None
) -> tuple[Published, ...]:
    return tuple(
        Published(
            filename=f"{name}.gz",
            url=f"{base}/{name}.gz",
            size=size,
            sha256=digest,
            content_sha256=(contents or {}).get(name),
        )
        for name, (size, digest) in files.items()
    )


# Sizes and digests are those in the url_checksums of tensorflow-datasets 4.9.10.
FASHION_MNIST = FileSet(
    name="fashion_mnist",
    description="Fashion-MNIST: grey photographs of clothes (Xiao, Rasul and Vollgraf, 2017).",
    version="3.0.1",
    shape=(28, 28, 1),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    examples=(60_000, 10_000),
    published=_idx_release(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte": (
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            "train-labels-idx1-ubyte": (
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            "t10k-images-idx3-ubyte": (
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            "t10k-labels-idx1-ubyte": (
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        },
        # Debian's dataset-fashion-mnist holds the same content, compressed anew.
        {
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
    ),
    locate=locate_idx,
    read=read_idx_set,
    system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
)

MNIST = FileSet(
    name="mnist",
    description="MNIST: grey images of handwritten digits (LeCun, Cortes and Burges, 1998).",
    version="3.0.1",
    shape=(28, 28, 1),
    classes=tuple("0123456789"),
    examples=(60_000, 10_000),
    published=_idx_release(
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        {
            "train-images-idx3-ubyte": (
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            "train-labels-idx1-ubyte": (
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            "t10k-images-idx3-ubyte": (
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            "t10k-labels-idx1-ubyte": (
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        },
        {
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
    ),
    locate=locate_idx,
    read=read_idx_set,
)

CIFAR10 = FileSet(
    name="cifar10",
    description="CIFAR-10: small colour photographs (Krizhevsky, 2009).",
    version="3.0.2",
    shape=(32, 32, 3),
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    examples=(50_000, 10_000),
    published=(
        Published(
            filename="cifar-10-binary.tar.gz",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    locate=locate_cifar10,
    read=read_cifar10_set,
)

FILE_SETS = (FASHION_MNIST, MNIST, CIFAR10)
