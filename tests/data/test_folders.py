"""Folders of images: which files make which split, and what is decoded when."""

import pickle
import struct
import unicodedata
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdl.data import DataError, from_folder, split
from jaxdl.data.image_files import read_image

GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.integers(0, 256, (6, 4, 3), np.uint8)
TURNED = 274  # EXIF's tag of the orientation


def save(path, pixels=NOISE, **settings):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


def numbered(number, size=(6, 4)):
    return np.full((*size, 3), number, np.uint8)


def inputs(streamed):
    return [streamed.source[i]["inputs"] for i in range(len(streamed))]


@pytest.fixture
def animals(tmp_path):
    """Three splits; each image is filled with a number of its own."""
    folder = tmp_path / "animals"
    for number, name in enumerate(
        (
            *("train/owl/2.png", "train/owl/10.png", "train/cat/a.PNG", "train/cat/b/c.png"),
            *("val/cat/x.png", "Test/owl/y.png", "Test/cat/y.png", "train/äffin/z.png"),
        )
    ):
        save(folder / name, numbered(number))
    return folder


def test_splits_and_classes_are_folders(animals):
    dataset = from_folder(animals)
    assert dataset.name == "animals"
    assert dataset.classes == ("cat", "owl", "äffin")
    # In order of names: 10.png stands before 2.png.
    assert [image[0, 0, 0] for image in inputs(dataset.train)] == [2, 3, 1, 0, 7]
    assert dataset.train.targets.tolist() == [0, 0, 1, 1, 2]
    assert dataset.train.targets.dtype == np.int32
    assert [Path(path).name for path in dataset.train.source.paths[:2]] == ["a.PNG", "c.png"]
    assert [image[0, 0, 0] for image in inputs(dataset.validation)] == [4]
    assert dataset.test.targets.tolist() == [0, 1]
    example = dataset.test.source[1]
    assert example["inputs"].dtype == np.uint8
    assert example["targets"].dtype == np.int32
    np.testing.assert_array_equal(example["inputs"], numbered(5))


def test_nothing_but_the_first_image_is_opened_before_it_is_read(animals):
    pytest.importorskip("grain")
    for name in ("train/owl/2.png", "val/cat/x.png"):
        (animals / name).write_bytes(b"no image")
    dataset = from_folder(animals)
    assert len(dataset.train) == 5
    assert dataset.train.read(np.array([4, 0]))["inputs"][:, 0, 0, 0].tolist() == [7, 2]
    for part, row in ((dataset.train, 3), (dataset.validation, 0)):
        with pytest.raises(DataError, match=r"^\S+(2|x)\.png must be a whole image") as raised:
            part.read(np.array([row]))
        assert "UnidentifiedImageError" in str(raised.value)


def test_class_folders_alone_are_a_training_split_to_cut(tmp_path):
    pytest.importorskip("grain")
    for number in range(40):
        save(tmp_path / "rest" / ("even", "odd")[number % 2] / f"{number}.png", numbered(number))
    dataset = from_folder(tmp_path / "rest")
    assert dataset.validation is dataset.test is None
    parts = split(dataset, key=jax.random.key(0), stratify=dataset.train.targets)
    found = []
    for part, size in ((parts.train, 28), (parts.validation, 6), (parts.test, 6)):
        read = part.read(np.arange(len(part)))
        np.testing.assert_array_equal(read["inputs"][:, 0, 0, 0] % 2, read["targets"])
        np.testing.assert_array_equal(part.targets, read["targets"])
        assert read["targets"].sum() * 2 == size == len(part)
        found += read["inputs"][:, 0, 0, 0].tolist()
    assert sorted(found) == list(range(40))
    again = pickle.loads(pickle.dumps(parts.test))
    np.testing.assert_array_equal(again.read(np.arange(6))["inputs"], read["inputs"])


def test_other_files_are_left_out_with_one_warning(animals):
    for name in ("train/cat/notes.txt", "train/list.csv", "val/cat/video.mp4", "train/stray.png"):
        (animals / name).write_text("")
    for name in ("train/.DS_Store", "train/cat/Thumbs.db", "train/cat/._a.png", ".git/x"):
        (animals / name).parent.mkdir(exist_ok=True)
        (animals / name).write_text("")
    with pytest.warns(UserWarning, match="4 files of .* are left out") as told:
        dataset = from_folder(animals)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert len(dataset.train) == 5


def test_an_empty_class_folder_is_told(animals):
    (animals / "train" / "newt").mkdir()
    (animals / "val" / "owl").mkdir()
    with pytest.warns(UserWarning, match="without images in .*: newt of train, owl of validation"):
        dataset = from_folder(animals)
    assert dataset.classes == ("cat", "newt", "owl", "äffin")
    assert dataset.train.targets.tolist() == [0, 0, 2, 2, 3]


def test_an_accent_is_one_name_in_either_form(tmp_path):
    for form, part in (("NFC", "train"), ("NFD", "test")):
        for name in ("épée", "arc"):
            save(tmp_path / part / unicodedata.normalize(form, name) / "1.png")
    dataset = from_folder(tmp_path)
    assert dataset.classes == ("arc", "épée")
    assert dataset.test.targets.tolist() == [0, 1]


def test_links_are_followed(tmp_path, animals):
    folder = tmp_path / "linked"
    (folder / "bird").mkdir(parents=True)
    (folder / "bird" / "1.png").symlink_to(animals / "train/owl/2.png")
    (folder / "cat").symlink_to(animals / "train/cat")
    dataset = from_folder(folder)
    assert [image[0, 0, 0] for image in inputs(dataset.train)] == [0, 2, 3]
    (folder / "cat2").symlink_to(folder)
    with pytest.raises(DataError, match=r"links must not lead back, got \S+/cat2"):
        from_folder(folder)
    (folder / "cat2").unlink()
    (folder / "bird" / "again").symlink_to(folder / "bird")
    with pytest.raises(DataError, match=r"links must not lead back, got \S+/bird/again"):
        from_folder(folder)
    (folder / "bird" / "again").unlink()
    (folder / "bird" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"links must lead to files, got \S+/2\.png to \S+gone"):
        from_folder(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"hold a folder of images for each class, at least 2, .* got none; pass"),
        (["1.png"], "for each class, at least 2, .* got none"),
        (["set/train/cat/1.png", "set/train/owl/1.png"], "at least 2, .* got set; pass the folder"),
        (["train/1.png"], "for each class, .* got none"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "got none for test of .* add some"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "validation split must .* a, b, got c"),
        (["train/a/1.png", "train/b/1.png", "extra/a/1.png"], "splits only .* got extra; rename"),
        (["train/a/1.png", "train/b/1.png", "val/a/1", "valid/b/1"], "got val and valid for valid"),
        (["test/a/1.png", "valid/b/1.png"], "folder named train .* got test, valid; rename"),
        (["a/1.txt", "b/1.txt"], "images in class folders, got none for train"),
    ],
)
def test_folders_of_another_form_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=message):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"folder": 7}, TypeError, "folder must be a path, got int"),
        ({"folder": "/no/such/place"}, DataError, "folder must be a folder of images, got /no"),
        ({"size": 32}, ValueError, r"size must be \(height, width\), got 32; pass"),
        ({"size": (32, 32, 3)}, ValueError, r"size must be \(height, width\)"),
        ({"size": (0, 32)}, ValueError, "height must be at least 1, got 0"),
        ({"size": (32, 3.5)}, TypeError, r"width must be a whole number, got 3\.5"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
    ],
)
def test_bad_settings_are_refused(animals, settings, kind, message):
    with pytest.raises(kind, match=message):
        from_folder(**{"folder": animals, **settings})


def test_without_a_size_another_size_is_refused_by_path(animals):
    save(animals / "train/owl/3.png", numbered(9, (6, 5)))
    dataset = from_folder(animals)
    with pytest.raises(
        DataError, match=r"one size, 6 x 4 .* got 6 x 5 in \S+/3\.png; pass size=\(6, 4\)"
    ):
        dataset.train.source[4]
    assert from_folder(animals, size=(6, 4)).train.source[4]["inputs"].shape == (6, 4, 3)


def shrunk(values, size):
    """Bilinear without aliasing: triangles as wide as two of the new pixels, along one axis."""
    step = len(values) / size
    centres = (np.arange(size) + 0.5) * step
    weights = np.maximum(0, 1 - abs(np.arange(len(values)) + 0.5 - centres[:, None]) / step)
    return np.tensordot(weights / weights.sum(1, keepdims=True), values, 1)


def test_resizing_averages_what_a_pixel_covers(tmp_path):
    pixels = GENERATOR.integers(0, 256, (24, 20, 3), np.uint8)
    found = read_image(str(save(tmp_path / "1.png", pixels)), (6, 5))
    expected = shrunk(shrunk(pixels.astype(float), 6).swapaxes(0, 1), 5).swapaxes(0, 1)
    # Each of the two passes rounds to a level.
    assert abs(found - expected).max() <= 1


def test_a_crop_keeps_the_middle_and_its_proportions(tmp_path):
    # Thirds: red, green, blue.
    pixels = np.repeat(np.eye(3, dtype=np.uint8) * 255, 10, axis=0)[None].repeat(10, axis=0)
    path = str(save(tmp_path / "1.png", pixels))
    assert (read_image(path, (10, 10), crop=True) == [0, 255, 0]).all()
    stretched = read_image(path, (10, 10))
    assert [int(stretched[0, i].argmax()) for i in (0, 5, 9)] == [0, 1, 2]
    assert (read_image(path, (10, 30)) == pixels).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[TURNED] = orientation
    # What the first row and column of the stored image are, by the standard (JEITA CP-3451, 4.6.4).
    turn = {
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: np.rot90(image, -1),
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: np.rot90(image),
    }[orientation]
    path = save(tmp_path / "1.png", exif=exif)
    np.testing.assert_array_equal(read_image(str(path)), turn(NOISE))


def test_all_kinds_of_colour_become_rgb_or_grey(tmp_path):
    level = NOISE[..., 0]
    rgba = np.concatenate([NOISE, level[..., None]], axis=-1)
    cases = {
        "L": (Image.fromarray(level), np.repeat(level[..., None], 3, -1)),
        "LA": (
            Image.merge("LA", [Image.fromarray(level)] * 2),
            np.repeat(level[..., None], 3, -1),
        ),
        "RGBA": (Image.fromarray(rgba), NOISE),
        "1": (Image.fromarray(level > 99), np.repeat(255 * (level > 99)[..., None], 3, -1)),
        "P": (Image.fromarray(NOISE).quantize(64), NOISE),  # 24 pixels have 24 colours at most
    }
    for mode, (image, expected) in cases.items():
        assert image.mode == mode
        image.save(tmp_path / f"{mode}.png")
        found = read_image(str(tmp_path / f"{mode}.png"))
        np.testing.assert_array_equal(found, expected, err_msg=mode)
        grey = read_image(str(tmp_path / f"{mode}.png"), grey=True)
        # Rec. 601's weights, which Pillow has as 16-bit fractions: rounded to a level.
        luma = expected @ [0.299, 0.587, 0.114]
        assert grey.shape == (6, 4, 1)
        assert abs(grey[..., 0] - luma).max() <= 0.51
    palette = Image.fromarray(NOISE).quantize(64)
    palette.save(tmp_path / "clear.png", transparency=bytes(range(24)))
    np.testing.assert_array_equal(read_image(str(tmp_path / "clear.png")), NOISE)
    Image.new("CMYK", (4, 6), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    ink = read_image(str(tmp_path / "ink.jpg")).astype(int)
    assert (ink[..., 0] > 240).all()
    assert (ink[..., 1:] < 15).all()


def png_of_16_bits(pixels):
    """RGB of 16 bits a channel, which Pillow cannot write (W3C's PNG, 11.2)."""

    def chunk(kind, data):
        content = kind + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_what_has_more_than_8_bits_is_refused(tmp_path):
    deep = np.arange(24, dtype=np.uint16).reshape(6, 4) * 2000
    save(tmp_path / "grey.png", deep)
    save(tmp_path / "grey.tif", deep)
    save(tmp_path / "float.tif", deep.astype(np.float32))
    save(tmp_path / "int.tif", deep.astype(np.int32))
    (tmp_path / "colour.png").write_bytes(png_of_16_bits(np.stack([deep] * 3, -1)))
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=rf"{path.name} must have 8 bits a channel, .*convert"):
            read_image(str(path))


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_several_frames_are_refused(tmp_path, ending):
    path = tmp_path / f"film.{ending}"
    frames = [Image.fromarray(numbered(level)) for level in (0, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"film\.{ending} must hold one picture, got 2 frames"):
        read_image(str(path))


def test_of_a_photograph_with_a_preview_the_main_picture_is_taken(tmp_path):
    frames = [Image.fromarray(numbered(level, (16, 16))) for level in (200, 0)]
    frames[0].save(tmp_path / "1.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert abs(read_image(str(tmp_path / "1.jpg")).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp", "tif"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
def test_a_file_that_was_cut_off_is_refused(tmp_path, ending, kept):
    path = save(tmp_path / f"cut.{ending}", GENERATOR.integers(0, 256, (64, 64, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=rf"cut\.{ending} must be a whole image .* copy it again"):
        read_image(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png must be a whole image .* FileNotFoundError"):
        read_image(str(tmp_path / "gone.png"))
