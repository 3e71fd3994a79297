"""What the TensorBoard observer writes, read back by TensorBoard's own reader."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from run_events import STEPS, dataset, events, run

from jaxdl import losses, models, observers, optimizers, training
from jaxdl.observers.event_file import EventFile
from jaxdl.observers.pictures import predictions_picture

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder):
    """All that TensorBoard finds in the folder."""
    everything = {kind: 0 for kind in ("scalars", "histograms", "images", "tensors")}
    found = event_accumulator.EventAccumulator(str(folder), size_guidance=everything)
    found.Reload()
    return found


def watch(folder, made, **settings):
    """Show these events to an observer, and read what it wrote."""
    observer = observers.tensorboard(folder, **{"step_every": 2} | settings)
    with contextlib.closing(observer):
        for event in made:
            assert observer.observe(event, ()) == ((), None)
    return read(folder)


def points(found, tag):
    return [(point.step, point.value) for point in found.Scalars(tag)]


def test_curves(tmp_path):
    found = watch(tmp_path, events([2.0, 1.0]), histograms=False, pictures=False)
    assert points(found, "loss/train") == [(4, 3.0), (8, 2.0)]
    assert points(found, "loss/validation") == [(4, 2.0), (8, 1.0)]
    assert points(found, "accuracy/validation") == [(4, 8.0), (8, 9.0)]
    assert points(found, "seconds") == [(4, 0.5), (8, 0.5)]
    assert points(found, "learning_rate") == [(4, 0.25), (8, 0.25)]
    # The steps' losses fall from 2 to 1 in each epoch; every second is drawn.
    steps = np.linspace(2, 1, STEPS, dtype=np.float32).tolist()
    assert points(found, "loss/batch") == [
        (2, steps[1]),
        (4, steps[3]),
        (6, steps[1]),
        (8, steps[3]),
    ]
    assert found.Tags()["histograms"] == found.Tags()["images"] == []


def test_an_optimizer_that_shows_no_rate_has_no_curve_of_it(tmp_path):
    import optax

    found = watch(tmp_path, events([2.0], run(optax.sgd(0.1))), histograms=False)
    assert "learning_rate" not in found.Tags()["scalars"]


def test_histograms_hold_every_entry(tmp_path):
    found = watch(tmp_path, events([2.0, 1.0]), examples=10, bins=4)
    layers = {"dense_0": 6, "dense_0/activation": 6, "dense_1": 3}
    shapes = {"dense_0/kernel": 150, "dense_0/bias": 6, "dense_1/kernel": 18, "dense_1/bias": 3}
    expected = {
        **{f"weights/{name}": size for name, size in shapes.items()},
        **{f"weight_gradients/{name}": size for name, size in shapes.items()},
        **{f"activations/{name}": 10 * width for name, width in layers.items()},
        **{f"gradients/{name}": 10 * width for name, width in layers.items()},
    }
    assert set(found.Tags()["histograms"]) == set(expected)
    for tag, entries in expected.items():
        drawn = found.Histograms(tag)
        assert [event.step for event in drawn] == [4, 8]
        assert [sum(event.histogram_value.bucket) for event in drawn] == [entries, entries]
    # All parameters are the epoch's number.
    weights = found.Histograms("weights/dense_0/kernel")[1].histogram_value
    assert weights.sum == pytest.approx(2 * 150)
    assert weights.sum_squares == pytest.approx(4 * 150)
    assert (weights.min, weights.max) == (1.5, 2.5)


def test_histograms_of_what_the_network_computes(tmp_path):
    a_run = run()
    (event,) = events([2.0], a_run)
    found = watch(tmp_path, [event], examples=10)
    inputs = a_run.dataset.train.inputs[:10].reshape(10, -1) / 255
    # Kernel and bias are all 1, so every unit is the sum of the pixels and one.
    drawn = found.Histograms("activations/dense_0")[0].histogram_value
    assert drawn.sum == pytest.approx(6 * (inputs.sum() + 10), rel=1e-5)
    # Equal logits: the softmax is 1/3 of each class, so the mean loss has the bias gradient
    # 1/3 - share of the class.
    share = np.bincount(a_run.dataset.train.targets[:10], minlength=3) / 10
    drawn = found.Histograms("weight_gradients/dense_1/bias")[0].histogram_value
    assert drawn.min == pytest.approx((1 / 3 - share).min(), abs=1e-6)
    assert drawn.max == pytest.approx((1 / 3 - share).max(), abs=1e-6)


def test_every_so_many_epochs_and_the_last(tmp_path):
    found = watch(tmp_path, events([1.0] * 5), every=2, bins=2)
    steps = [event.step for event in found.Histograms("weights/dense_1/bias")]
    assert steps == [8, 16, 20]
    assert [event.step for event in found.Images("predictions")] == [8, 16, 20]


def test_pictures_of_predictions(tmp_path):
    found = watch(tmp_path, events([1.0]), histograms=False)
    (drawn,) = found.Images("predictions")
    with Image.open(io.BytesIO(drawn.encoded_image_string)) as picture:
        assert picture.size == (drawn.width, drawn.height)
        assert np.asarray(picture).std() > 0


def test_data_without_images_or_classes_has_no_picture(tmp_path):
    noise = dataset()
    for number, given in enumerate(
        (
            dataclasses.replace(noise, classes=()),
            dataclasses.replace(noise, classes=tuple("abcd")),  # the model has three outputs
        )
    ):
        a_run = run(dataset=given)
        found = watch(tmp_path / str(number), events([1.0], a_run), histograms=False)
        assert found.Tags()["images"] == []


def test_right_and_wrong_are_told_apart():
    images = np.zeros((2, 5, 5, 1), np.uint8)
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])

    def colours(targets):
        picture = predictions_picture(images, scores, np.array(targets), ("cat", "dog"))
        red, green = picture[..., 0].astype(int), picture[..., 1].astype(int)
        return (green > red + 50).any(), (red > green + 50).any()

    assert colours([0, 0]) == (True, False)
    assert colours([1, 1]) == (False, True)
    assert colours([0, 1]) == (True, True)


def test_names_in_any_script_are_drawn():
    images, scores = np.zeros((1, 5, 5, 1), np.uint8), np.array([[0.9, 0.1]])
    for names in (("cat", "dog"), ("čtyři", "χ")):
        picture = predictions_picture(images, scores, np.array([0]), names)
        assert (picture[96:] < 255).any()


def test_images_of_other_ranges_are_stretched():
    scores, classes = np.array([[1.0, 0.0]]), ("a", "b")
    image = np.linspace(-3, 5, 25).reshape(1, 5, 5, 1)
    picture = predictions_picture(image, scores, np.array([0]), classes)[:96, :96]
    assert (picture.min(), picture.max()) == (0, 255)
    grey = predictions_picture(np.full((1, 5, 5, 3), 7, np.uint8), scores, np.array([0]), classes)
    assert (grey[:96, :96] == 7).all()


def test_the_config_is_a_text(tmp_path):
    found = watch(tmp_path, events([1.0]), histograms=False, pictures=False)
    (text,) = found.Tensors("config/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert "| batch_size | 5 |" in table
    assert "| loss | cross_entropy |" in table
    assert "| dataset | Dataset('noise', train=20" in table


def test_after_a_resume_each_step_is_shown_once(tmp_path):
    # Killed after epoch 3, resumed from a checkpoint of epoch 2: the third is trained again.
    watch(tmp_path, events([4.0, 3.0, 2.0], epochs=4), bins=2)
    again = events([4.0, 3.0, 2.5, 1.0], first_epoch=3)
    found = watch(tmp_path, again, bins=2)
    assert points(found, "loss/validation") == [(4, 4.0), (8, 3.0), (12, 2.5), (16, 1.0)]
    assert [step for step, _ in points(found, "loss/batch")] == [2, 4, 6, 8, 10, 12, 14, 16]
    steps = [event.step for event in found.Histograms("weights/dense_1/bias")]
    assert steps == [4, 8, 12, 16]


def test_what_is_written_is_there_before_the_next_epoch(tmp_path):
    observer = observers.tensorboard(tmp_path, histograms=False, pictures=False)
    first, second = events([2.0, 1.0])
    observer.observe(first, ())
    assert points(read(tmp_path), "loss/validation") == [(4, 2.0)]
    observer.observe(second, ())
    assert points(read(tmp_path), "loss/validation") == [(4, 2.0), (8, 1.0)]
    observer.close()


def test_entries_that_are_not_finite_are_counted_apart(tmp_path):
    file = EventFile(tmp_path, first_step=0)
    file.histogram("weights", np.array([1.0, np.nan, 3.0, np.inf]), 1, bins=2)
    file.histogram("lost", np.full(5, np.nan), 1, bins=2)
    file.close()
    found = read(tmp_path)
    assert points(found, "nonfinite/weights") == [(1, 2.0)]
    assert points(found, "nonfinite/lost") == [(1, 5.0)]
    assert found.Tags()["histograms"] == ["weights"]
    assert list(found.Histograms("weights")[0].histogram_value.bucket) == [0.0, 1.0, 1.0]


def test_a_network_with_batch_norm_and_dropout(tmp_path):
    import functools

    from jaxdl.layers import BatchNorm

    model = models.MLP([6, 3], norm=functools.partial(BatchNorm), dropout_rate=0.5)
    a_run = run(optimizers.adam(0.1), task=training.Task(model, losses.cross_entropy))
    found = watch(tmp_path, events([1.0], a_run), bins=2)
    assert "activations/norm_0" in found.Tags()["histograms"]
    assert "weights/norm_0/scale" in found.Tags()["histograms"]


def test_without_tensorboardx_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(
        ImportError, match=r'pip install "(?i:tensorboardx)\b.* extra "tensorboard"'
    ):
        observers.tensorboard(tmp_path)
