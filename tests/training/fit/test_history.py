"""A history as a table, a line and a figure, for runs of every length."""

import numpy as np
import pytest

from jaxdl.training.fit.history import EpochMeasurements, History, join

NAMES = ("loss", "accuracy")


def history_of(epochs, steps, *, train=NAMES, validation=NAMES):
    """Values that count up: of step i + 1 it is i, of epoch i + 1 it is 10 i, 100 i validated."""
    return History(
        {name: np.arange(float(steps)) for name in train},
        {name: 10.0 * np.arange(epochs) for name in train} if epochs else {},
        {name: 100.0 * np.arange(epochs) for name in validation} if epochs else {},
        np.arange(epochs) / 2,
    )


def test_a_row_an_epoch():
    table = history_of(3, 12, train=NAMES[::-1], validation=("f1", "loss")).to_pandas()
    assert list(table) == ["loss", "accuracy", "validation_loss", "validation_f1", "seconds"]
    assert (table.index.name, table.index.tolist()) == ("epoch", [1, 2, 3])
    assert table.loc[3].tolist() == [20, 20, 200, 200, 1]


def test_a_row_a_step():
    table = history_of(3, 12).to_pandas(per="step")
    assert list(table) == list(NAMES)
    assert (table.index.name, table.index.tolist()) == ("step", [*range(1, 13)])
    assert table["loss"].tolist() == [*range(12)]


def test_a_table_may_be_empty():
    unfinished = history_of(0, 3)
    assert unfinished.to_pandas().shape == (0, 1)
    assert unfinished.to_pandas("step").shape == (3, 2)
    assert join([]).to_pandas("step").shape == (0, 0)


def test_what_an_epoch_did_not_measure_is_nan():
    """A value that was validated in the first epochs only."""
    history = History({}, {"loss": np.ones(3)}, {"loss": np.ones(3), "f1": np.ones(2)}, np.ones(3))
    table = history.to_pandas()
    assert table["validation_f1"].isna().tolist() == [False, False, True]
    assert table.index.tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["validation_loss", "seconds"])
def test_two_columns_of_one_name_are_refused(name):
    with pytest.raises(ValueError, match=f"different names, got {name} twice"):
        history_of(1, 1, train=("loss", name)).to_pandas()


@pytest.mark.parametrize("per", ["epochs", 1, None])
def test_other_rows_are_refused(per):
    with pytest.raises(ValueError, match="per must be one of epoch, step, got"):
        history_of(1, 1).to_pandas(per)


@pytest.mark.parametrize(
    ("history", "line"),
    [
        (
            history_of(5, 425),
            "5 epochs, 425 steps: loss 0 to 40, accuracy 0 to 40; "
            "validation loss 0 to 400, accuracy 0 to 400",
        ),
        (history_of(1, 2, validation=()), "1 epoch, 2 steps: loss 0, accuracy 0"),
        (history_of(0, 3), "0 epochs, 3 steps: loss 0 to 2, accuracy 0 to 2"),
        (
            history_of(2, 2, train=("error", "loss"), validation=("f1",)),
            "2 epochs, 2 steps: loss 0 to 10, error 0 to 10; validation f1 0 to 100",
        ),
        (join([]), "0 epochs, 0 steps"),
    ],
)
def test_its_line(history, line):
    assert repr(history) == f"History({line})"


def test_an_epochs_line_has_no_steps():
    epoch = EpochMeasurements({"loss": np.ones(99)}, {"loss": 0.5}, {"loss": np.nan}, 1.0)
    assert repr(epoch) == "EpochMeasurements(loss 0.5; validation loss nan)"


def test_its_page_has_a_row_for_each_value():
    page = history_of(2, 4, validation=("loss", "f1"))._repr_html_()
    counts = [page.count(text) for text in ("0 to 10<", "0 to 100<", "<svg", "dasharray")]
    assert counts == [2, 2, 3, 2]
    alone = history_of(1, 2, validation=())._repr_html_()
    assert ("validation" in alone, "<svg" in alone) == (False, False)
    assert "each step" in history_of(0, 3)._repr_html_()
