"""The file that an animation is: its frames, size and duration, and that its paths move."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdl.plotting import Landscape, animate_paths, has_ffmpeg

X = np.linspace(-1.0, 1.0, 11)
STEPS = 8
DIAGONAL = np.linspace([-0.9, -0.9], [0.9, 0.9], STEPS + 1)
PANEL = Landscape(
    X, X, X[:, None] ** 2 + X**2, {"one": DIAGONAL, "other": DIAGONAL[::2, ::-1] * [1, -1]}
)


@pytest.fixture(scope="module")
def gif(tmp_path_factory):
    file = tmp_path_factory.mktemp("gif") / "paths.gif"
    written = animate_paths(
        PANEL, path=file, seconds=0.9, frames_per_second=10, size=(4.0, 3.0), dpi=50
    )
    assert written == file
    return file


def frames_of(file: Path) -> Iterator[tuple[int, np.ndarray]]:
    image: Any
    with Image.open(file) as image:
        for index in range(image.n_frames):
            image.seek(index)
            yield image.info["duration"], np.asarray(image.convert("RGB"), int)


def test_frames_size_and_duration(gif):
    with Image.open(gif) as image:
        assert image.size == (200, 150)
        assert image.info["loop"] == 0
    durations, frames = zip(*frames_of(gif), strict=True)
    # Nine steps, of which the last stays for twenty frames more: one frame of a longer duration.
    assert len(frames) == STEPS + 1
    assert sum(durations) == 900 + 2000
    assert durations[:-1] == (100,) * STEPS


def test_each_frame_draws_more_of_the_path(gif):
    frames = [frame for _, frame in frames_of(gif)]
    vermilion = np.array([0xD5, 0x5E, 0x00])
    lengths = [int((np.abs(frame - vermilion).sum(-1) < 60).sum()) for frame in frames]
    assert lengths[-1] > 2 * lengths[1] > 0
    centres = [
        np.argwhere(np.abs(frame - vermilion).sum(-1) < 60).max(0)[1] for frame in frames[1:-1]
    ]
    assert np.all(np.diff(centres) > 0), "the path's head moves to the right"


def test_the_background_stands_still(gif):
    frames = np.stack([frame for _, frame in frames_of(gif)])
    still = np.all(frames == frames[0], axis=(0, 3))
    assert still.mean() > 0.85


def test_the_last_frame_is_held_as_long_as_asked(tmp_path):
    for hold in (0.0, 0.7):
        file = tmp_path / f"{hold}.gif"
        animate_paths(PANEL, path=file, seconds=0.9, hold=hold, frames_per_second=10, dpi=40)
        durations = [duration for duration, _ in frames_of(file)]
        assert durations == [100] * STEPS + [round(100 + 1000 * hold)]


def test_fewer_steps_can_be_shown(tmp_path):
    animate_paths(
        PANEL, path=tmp_path / "a.gif", steps=2, seconds=0.3, frames_per_second=10, dpi=40
    )
    assert len(list(frames_of(tmp_path / "a.gif"))) == 3


@pytest.mark.skipif(not has_ffmpeg(), reason="ffmpeg is not installed")
def test_mp4(tmp_path):
    file = animate_paths(PANEL, path=tmp_path / "a.mp4", seconds=0.5, frames_per_second=10, dpi=40)
    assert file.read_bytes()[4:8] == b"ftyp"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_ffmpeg_is_given_every_frame(tmp_path, monkeypatch, gif):
    """A program of that name which copies its input: 9 steps, and the last for two seconds more."""
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do :; done\nexec cat > "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    file = animate_paths(
        PANEL, path=tmp_path / "a.mp4", seconds=0.9, frames_per_second=10, size=(4.0, 3.0), dpi=50
    )
    raw = np.frombuffer(file.read_bytes(), np.uint8).reshape(29, 150, 200, 4)[..., :3]
    assert np.all(raw[8:] == raw[8])
    for frame, (_, shown) in zip(raw, frames_of(gif), strict=False):
        # The greys of the GIF are within 4, and white, most of the frame, is white.
        assert np.abs(frame - shown).mean() < 2
        assert np.all(shown[0, 0] == 255)


def test_an_mp4_without_ffmpeg_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not has_ffmpeg()
    with pytest.raises(RuntimeError, match=r"install ffmpeg, or write a \.gif"):
        animate_paths(PANEL, path=tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "a.png"}, "must end in .gif or .mp4, got a.png"),
        ({"steps": 9}, "steps must be 1 to 8"),
        ({"steps": 0}, "got 0"),
        ({"seconds": 0.01}, "got 0 at 20 a second"),
        ({"hold": -1.0}, "hold must be at least 0 s, got -1.0"),
        ({"frames_per_second": 60}, "at most 50 a second"),
    ],
)
def test_refuses(tmp_path, settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        animate_paths(PANEL, **{"path": tmp_path / "a.gif"} | settings)


def test_refuses_panels_without_a_path(tmp_path):
    with pytest.raises(ValueError, match="steps must be 1 to 0"):
        animate_paths(Landscape(X, X, PANEL.heights), path=tmp_path / "a.gif")
