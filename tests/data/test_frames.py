"""Frames and CSV files: scikit-learn encodes them alike; what no network could use is named."""

import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdl.data import Arrays, Dataset, from_csv, from_frame, split, standardize

pandas = pytest.importorskip("pandas")
compose = pytest.importorskip("sklearn.compose")
impute = pytest.importorskip("sklearn.impute")
pipeline = pytest.importorskip("sklearn.pipeline")
preprocessing = pytest.importorskip("sklearn.preprocessing")

# Inputs are float32, rounded from float64: half a unit in the last place. The means of 60 rows, of
# at most 10 standard deviations each, differ by 60 roundings.
ROUNDING = {"rtol": 2.0**-24, "atol": 60 * 10 * 2.0**-53}
KEY = jax.random.key(0)


def houses(rows=60, seed=0):
    generator = np.random.default_rng(seed)
    return pandas.DataFrame(
        {
            "area": generator.normal(80, 20, rows),
            "rooms": generator.integers(1, 7, rows),
            "heating": generator.choice(["oil", "gas", "wood"], rows),
            "garden": generator.choice([True, False], rows),
            "postcode": generator.choice([1010, 9020, 202], rows),
            "price": generator.normal(1e5, 1e4, rows),
            "sold": generator.choice(["yes", "no"], rows),
        }
    )


def rows_of(frame, **settings):
    """The row numbers of each split, by the library's own cut of arrays."""
    rows = np.arange(len(frame))
    parts = split(Dataset("rows", Arrays(rows, rows), None, None), key=KEY, **settings)
    return {name: getattr(parts, name).inputs for name in ("train", "validation", "test")}


def sklearns(train, numbers, categories, fill=None):
    """Fitted to the training rows: numbers scaled, categories one-hot, booleans as they are."""
    steps = [preprocessing.StandardScaler()]
    if fill is not None:
        steps.insert(0, impute.SimpleImputer(strategy=fill))
    encoder = preprocessing.OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    return compose.make_column_transformer(
        (pipeline.make_pipeline(*steps), numbers),
        (encoder, categories),
        ("passthrough", ["garden"]),
        verbose_feature_names_out=False,
    ).fit(train)


def test_inputs_are_those_of_scikit_learn():
    frame = houses()
    dataset = from_frame(
        frame,
        "price",
        key=KEY,
        features=["area", "rooms", "heating", "postcode", "garden"],
        categorical="postcode",
    )
    rows = rows_of(frame)
    expected = sklearns(frame.iloc[rows["train"]], ["area", "rooms"], ["heating", "postcode"])
    names = [name.replace("_", "=") for name in expected.get_feature_names_out()]
    assert list(dataset.features) == names
    assert dataset.features[2:8] == (
        *("heating=gas", "heating=oil", "heating=wood"),
        *("postcode=202", "postcode=1010", "postcode=9020"),
    )
    for part, taken in rows.items():
        arrays = getattr(dataset, part)
        assert arrays.inputs.dtype == arrays.targets.dtype == np.float32
        inputs = expected.transform(frame.iloc[taken]).astype(float)
        np.testing.assert_allclose(arrays.inputs, inputs, **ROUNDING)
        targets = frame.price.to_numpy()[taken, None].astype(np.float32)
        np.testing.assert_array_equal(arrays.targets, targets)
        assert arrays.weights is None
    assert dataset.classes == ()


def test_statistics_come_from_the_training_split_alone():
    frame = houses()
    rows = rows_of(frame)
    first = from_frame(frame, "price", key=KEY)
    changed = frame.copy()
    others = np.concatenate([rows["validation"], rows["test"]])
    changed.loc[others, "area"] *= 100
    changed.loc[others, "heating"] = "gas"
    second = from_frame(changed, "price", key=KEY)
    np.testing.assert_array_equal(first.train.inputs, second.train.inputs)
    assert first.features == second.features
    assert not np.array_equal(first.test.inputs, second.test.inputs)


def test_new_rows_are_encoded_by_a_pickled_encoder_without_the_data():
    frame = houses()
    dataset = from_frame(frame, "sold", key=KEY, categorical=["postcode"])
    encoder = pickle.loads(pickle.dumps(dataset.encoder))
    assert dataset.classes == encoder.classes == ("no", "yes")
    assert dataset.train.targets.dtype == np.int32
    taken = frame.iloc[rows_of(frame)["test"]]
    np.testing.assert_array_equal(dataset.test.targets, taken.sold == "yes")
    arrays = encoder.arrays(taken)
    np.testing.assert_array_equal(arrays.inputs, dataset.test.inputs)
    np.testing.assert_array_equal(arrays.targets, dataset.test.targets)
    # Without the target, in another order, with more columns; whole numbers as floats or as text.
    new = taken.drop(columns="sold")[::-1].assign(postcode=lambda f: f.postcode.astype(float))
    new = new[["heating", "price", "postcode", "garden", "rooms", "area"]].assign(more=0)
    np.testing.assert_array_equal(encoder.encode(new), dataset.test.inputs[::-1])
    texts = taken.assign(postcode=taken.postcode.astype(str))
    np.testing.assert_array_equal(encoder.encode(texts), dataset.test.inputs)
    one = pandas.DataFrame([taken.iloc[0].to_dict()])
    np.testing.assert_array_equal(encoder.encode(one), dataset.test.inputs[:1])
    back = encoder.scaler.inverse(dataset.test.inputs.astype(np.float64))[:, 0]
    np.testing.assert_allclose(back, taken.area, rtol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_missing_numbers_are_filled_as_scikit_learn_does(rule):
    frame = houses()
    frame.loc[::7, "area"] = np.nan
    frame["rooms"] = frame.rooms.astype("Int64").mask(frame.index % 5 == 1)
    dataset = from_frame(frame, "price", key=KEY, missing=rule, leave_out=["postcode", "sold"])
    rows = rows_of(frame)
    # pandas' own missing value is none of scikit-learn's.
    plain = frame.assign(rooms=frame.rooms.astype(float))
    expected = sklearns(plain.iloc[rows["train"]], ["area", "rooms"], ["heating"], rule)
    for part, taken in rows.items():
        inputs = expected.transform(plain.iloc[taken]).astype(float)
        found = getattr(dataset, part).inputs
        np.testing.assert_allclose(found, inputs, **ROUNDING)


def test_missing_values_are_filled_column_by_column():
    frame = houses()
    frame.loc[frame.index % 6 == 1, "heating"] = None
    frame.loc[frame.index % 5 == 1, "area"] = np.nan
    frame["garden"] = frame.garden.astype(object).mask(frame.index % 4 == 1, None)
    dataset = from_frame(
        frame,
        "price",
        features=["heating", "area", "garden"],
        missing={"heating": "category", "area": 7, "garden": "mean"},
        standardize=False,
    )
    assert dataset.features[:4] == (
        *("heating=gas", "heating=oil", "heating=wood"),
        "heating=missing",
    )
    np.testing.assert_array_equal(dataset.train.inputs[:, :4].sum(axis=1), 1)
    np.testing.assert_array_equal(dataset.train.inputs[:, 3], frame.index % 6 == 1)
    assert (dataset.train.inputs[1::5, 4] == 7).all()
    known = frame.garden.dropna().astype(bool)
    np.testing.assert_allclose(dataset.train.inputs[1::4, 5], known.mean(), **ROUNDING)
    np.testing.assert_array_equal(dataset.train.inputs[known.index, 5], known)
    # A column where only later rows miss a value.
    late = from_frame(houses(), "price", missing={"heating": "category"})
    new = houses(2).assign(heating=[None, "oil"])
    place = late.features.index("heating=missing")
    assert late.encoder.encode(new)[:, place].tolist() == [1, 0]
    assert not late.train.inputs[:, place].any()


def test_a_category_of_later_rows_is_refused_or_zero():
    frame = houses()
    new = houses(3, seed=1).assign(heating=["oil", "sun", "wind"], sold="no")
    with pytest.raises(ValueError, match='others in heating: sun, wind; pass unknown="zeros"'):
        from_frame(frame, "price", test=new)
    zeros = from_frame(frame, "price", test=new, unknown="zeros", key=KEY)
    assert [len(zeros.train), len(zeros.validation), len(zeros.test)] == [51, 9, 3]
    places = [place for place, name in enumerate(zeros.features) if "heating" in name]
    assert zeros.test.inputs[:, places].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    unknown = new.assign(heating="oil", sold=["no", "no", "perhaps"])
    with pytest.raises(ValueError, match=r"classes must .* got perhaps of sold; pass stratify"):
        from_frame(frame, "sold", test=unknown, unknown="zeros")


def test_a_class_that_the_training_split_has_not_is_refused():
    frame = houses()
    frame.loc[rows_of(frame)["test"][0], "sold"] = "perhaps"
    with pytest.raises(ValueError, match=r"classes must .* got perhaps of sold"):
        from_frame(frame, "sold", key=KEY)


def test_targets_of_all_kinds():
    frame = houses().assign(level=np.tile([0, 1, 2], 20), paid=np.tile([1.0, 0.0], 30))
    several = from_frame(frame, ["price", "garden"], leave_out="sold")
    np.testing.assert_array_equal(
        several.train.targets, frame[["price", "garden"]].to_numpy(np.float32)
    )
    assert "garden" not in several.features
    numbers = from_frame(frame, "level")
    assert numbers.train.targets.shape == (60, 1)
    classes = from_frame(frame, "level", categorical={"level", "paid"})
    assert classes.classes == ("0", "1", "2")
    np.testing.assert_array_equal(classes.train.targets, frame.level)
    assert classes.features[-2:] == ("paid=0", "paid=1")
    booleans = from_frame(frame, "garden")
    assert booleans.classes == ("False", "True")
    np.testing.assert_array_equal(booleans.train.targets, frame.garden)
    declared = frame.assign(sold=pandas.Categorical(frame.sold, ["yes", "no", "never"]))
    assert from_frame(declared, "sold").classes == ("no", "yes")


def test_weights_groups_and_classes_are_columns():
    frame = houses(120).assign(street=np.repeat(np.arange(30), 4), trust=np.linspace(0, 2, 120))
    settings = {"key": KEY, "fractions": (0.5, 0.25, 0.25)}
    dataset = from_frame(
        frame, "sold", **settings, stratify="sold", groups="street", weights="trust"
    )
    assert not {"street", "trust", "sold"} & set(dataset.features)
    rows = rows_of(
        frame, fractions=(0.5, 0.25, 0.25), stratify=frame.sold, groups=frame.street.to_numpy()
    )
    for part, taken in rows.items():
        arrays = getattr(dataset, part)
        np.testing.assert_array_equal(arrays.weights, frame.trust.to_numpy(np.float32)[taken])
        np.testing.assert_array_equal(arrays.targets, frame.sold.iloc[taken] == "yes")
    with pytest.raises(ValueError, match=r"weights must be at least 0, got -1\.0 in trust"):
        from_frame(frame.assign(trust=-1.0), "sold", weights="trust")
    with pytest.raises(ValueError, match=r"weights must have no missing .* 120 in trust; leave"):
        from_frame(frame.assign(trust=np.nan), "sold", weights="trust")


def test_frames_of_their_own_for_each_split():
    frame, other, last = houses(), houses(9, seed=1), houses(8, seed=2)
    dataset = from_frame(frame, "price", validation=other, test=last)
    np.testing.assert_array_equal(dataset.train.targets[:, 0], frame.price.astype(np.float32))
    for arrays, rows in ((dataset.validation, other), (dataset.test, last)):
        np.testing.assert_array_equal(arrays.inputs, dataset.encoder.encode(rows))
    alone = from_frame(frame, "price")
    assert alone.validation is alone.test is None
    with pytest.raises(ValueError, match=r"split takes .* pass key to from_frame, which then cuts"):
        split(alone, key=KEY)


def test_numbers_in_their_units():
    frame = houses().assign(population=[2**24 + 2] * 30 + [3] * 30)
    dataset = from_frame(frame, "price", features=["population", "garden"], standardize=False)
    np.testing.assert_array_equal(dataset.train.inputs[:, 0], frame.population)
    _, scaler = standardize(dataset)
    np.testing.assert_allclose(scaler.mean[0], frame.population.mean(), rtol=1e-12)
    odd = frame.assign(population=frame.population + 1)
    with pytest.raises(ValueError, match="exact in float32, got 16777219 in column population"):
        from_frame(odd, "price", standardize=False)
    with pytest.raises(ValueError, match="exact in float32, got 16777219 in column population"):
        from_frame(odd, "population")
    assert abs(from_frame(odd, "price").train.inputs.mean(axis=0)[0]) < 1e-6


TABLE = pandas.DataFrame(
    {"x": [1.0, 2.0, 3.0, 4.0], "c": ["a", "b"] * 2, "y": [0.0, 1.0, 2.0, 3.0]}
)


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (
            {},
            {"target": "z"},
            r"columns that you name must be .* got \['z'\]; its columns are \['x",
        ),
        ({}, {"features": ["x", "w"]}, r"features must be columns of the frame, got \['w'\]"),
        ({}, {"features": ["x", "y"]}, r"features must not be the target.* got \['y'\]"),
        ({}, {"features": ["x", "x"]}, "must name each column once"),
        ({}, {"leave_out": ["x", "c"]}, "got 4 rows and 0 features"),
        ({}, {"weights": [1.0] * 4}, "weights must be the name of a column, got list"),
        ({}, {"stratify": "c"}, "stratify must come with a key"),
        ({}, {"key": KEY, "validation": TABLE}, "key must be None where a validation frame"),
        ({}, {"unknown": "ignore"}, "unknown must be one of refuse, zeros, got 'ignore'"),
        ({}, {"missing": "zero"}, "missing must be .* got 'zero'"),
        ({}, {"missing": {"z": 0}}, "missing must name features, got z"),
        ({}, {"missing": {"c": "mean"}}, "got 'mean' for c, a category column; pass \"category\""),
        ({}, {"missing": {"x": "category"}}, "got 'category' for x, a number column; pass \"mean"),
        ({}, {"missing": float("nan")}, "finite number, got nan"),
        ({}, {"target": ["y", "c"]}, "several targets must be numbers .* got categories in c"),
        ({"c": "a"}, {"target": "c"}, r"at least 2 classes in the training split, got \('a',\)"),
        ({"y": [0, None, 1, None]}, {}, r"target must have no missing .* 2 in y; .*dropna\(subset"),
        ({"x": [None, 1, 2, 3]}, {}, "features must have no missing values, got 1 in x; pass miss"),
        ({"c": ["a", None, "a", None]}, {"missing": "mean"}, "got 2 in c; pass missing="),
        ({"x": [None] * 4}, {}, "column x must hold numbers or text, got empty values"),
        ({"x": [1, 2, np.inf, 3]}, {}, "numbers must be finite, got infinity in column x"),
        ({"x": [1, 2, 1e39, 3]}, {"standardize": False}, r"within float32, got 1e\+39 of x"),
        ({"x": 1, "z": 2.0}, {}, r"vary over the training split, got one value in \['x', 'z'\]"),
        ({"x": ["1", "2", "?", "2"]}, {}, r"hold numbers or words, got both, e\.g\. '\?'; make"),
        ({"x": [1, "a", 2, "b"]}, {}, "numbers or text, got mixed-integer values"),
        ({"x": [1j, 1, 2, 3]}, {}, "numbers or text, got complex values"),
        ({"x": ["a", "b", "c", "d"]}, {}, "categories must repeat, got another one in each row of"),
        ({"x": pandas.date_range("2024", periods=4)}, {}, "got dates, e.g. 2024-01-01"),
        ({"x": pandas.timedelta_range("1h", periods=4)}, {}, "got dates"),
        ({"x": ["2024-07-31"] * 2 + ["2024-08-01"] * 2}, {}, r"got dates, e\.g\. 2024-07-31; make"),
        ({"x": ["1/7/2024 10:00"] * 4}, {}, "got dates"),
        (
            {"c": ["a", "missing", "a", None]},
            {"missing": "category"},
            r"names of their own, got \['c=missing'\] twice; rename",
        ),
        ({"Unnamed: 0": [0, 1, 2, 3]}, {}, r"names, got \['Unnamed: 0'\], likely row numbers"),
    ],
)
def test_what_makes_no_data_set_is_refused(columns, settings, message):
    frame = TABLE.assign(**columns)
    with pytest.raises(ValueError, match=message):
        from_frame(frame, **{"target": "y", **settings})


def test_what_is_meant_is_taken():
    frame = TABLE.assign(**{"Unnamed: 0": [1, 2, 3, 4], "id": [*"pqrs"], "size": [*"12S2"]})
    named = ["Unnamed: 0", "id", "size"]
    dataset = from_frame(frame, "y", features=named, categorical=named[1:], standardize=False)
    assert dataset.features == (
        *("Unnamed: 0", "id=p", "id=q", "id=r", "id=s"),
        *("size=1", "size=2", "size=S"),
    )
    np.testing.assert_array_equal(dataset.train.inputs[:, 0], frame["Unnamed: 0"])


def test_frames_with_odd_columns_are_refused():
    twice = pandas.DataFrame(np.zeros((3, 3)), columns=["x", "x", "y"])
    with pytest.raises(ValueError, match=r"names of their own, got \['x'\]; rename"):
        from_frame(twice, "y")
    levels = pandas.DataFrame(np.zeros((3, 2)), columns=[["a", "a"], ["x", "y"]])
    with pytest.raises(ValueError, match="names of their own, got names of several levels"):
        from_frame(levels, "y")
    with pytest.raises(
        TypeError, match=r"must be a pandas\.DataFrame, got dict; pass pandas\.Data"
    ):
        from_frame({"x": [1], "y": [2]}, "y")
    # Columns without names have numbers.
    plain = pandas.DataFrame(np.random.default_rng(0).normal(size=(5, 3)))
    assert from_frame(plain, 2).features == ("0", "1")


def test_a_column_that_changed_its_kind_is_refused():
    encoder = from_frame(houses(), "price").encoder
    with pytest.raises(TypeError, match=r"column area must hold numbers, .* got string values"):
        encoder.encode(houses(2).assign(area=["12", "many"]))
    with pytest.raises(
        ValueError, match=r"the features must be columns .* got \['area', 'rooms'\]"
    ):
        encoder.encode(houses(2).drop(columns=["rooms", "area"]))
    with pytest.raises(ValueError, match="no missing values, got 2 in area"):
        encoder.encode(houses(2).assign(area=None))
    assert encoder.encode(houses(2).iloc[:0]).shape == (0, len(encoder.features))


def test_a_csv_file_is_its_frame(tmp_path):
    frame = houses()
    frame.to_csv(tmp_path / "houses.csv", index=False)
    found = from_csv(str(tmp_path / "houses.csv"), "price", key=KEY, stratify="sold")
    expected = from_frame(
        pandas.read_csv(tmp_path / "houses.csv"), "price", key=KEY, stratify="sold"
    )
    assert found.name == "houses"
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(found, part).inputs, getattr(expected, part).inputs)
    halves = {"validation": tmp_path / "v.csv", "test": tmp_path / "t.csv"}
    frame[:20].to_csv(halves["validation"], index=False)
    frame[20:50].to_csv(halves["test"], index=False)
    apart = from_csv(tmp_path / "houses.csv", target="price", name="mine", **halves)
    assert repr(apart) == "Dataset('mine', train=60, validation=20, test=30, classes=0)"


@pytest.mark.parametrize(
    ("text", "settings", "kind", "message"),
    [
        ("a;b\n1;2\n", {}, ValueError, "several columns, got one in .*, 'a;b'; pass .* \";\"}"),
        ("a,b,a\n1,2,3\n", {}, ValueError, r"names of their own, got \['a'\]"),
        (",a,b\n0,1,2\n1,4,3\n", {}, ValueError, r"\['Unnamed: 0'\].*index_col"),
        ("a,b\n1,2\n", {"sep": ";"}, TypeError, r"got sep; pass .* read_options={'sep': \.\.\.}"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, settings, kind, message):
    (tmp_path / "odd.csv").write_text(text)
    with pytest.raises(kind, match=message):
        from_csv(tmp_path / "odd.csv", "b", **settings)


def test_options_of_pandas_reach_it(tmp_path):
    (tmp_path / "odd.csv").write_text("# by hand\na;b;b.1\n1;2;3\n?;3;4\n5;7;6\n")
    options = {"sep": ";", "na_values": "?", "comment": "#"}
    found = from_csv(tmp_path / "odd.csv", "b", read_options=options, missing="mean")
    assert found.features == ("a", "b.1")
    assert found.train.inputs[1, 0] == 0
    # A file without names: equal values in its first line are no names.
    (tmp_path / "bare.csv").write_text("1,1,2\n3,4,5\n")
    bare = from_csv(tmp_path / "bare.csv", 2, read_options={"header": None})
    assert bare.features == ("0", "1")
    with pytest.raises(FileNotFoundError):
        from_csv(tmp_path / "none.csv", "b")


def test_a_missing_pandas_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'needs pandas, .*pip install "pandas.*experiments'):
        from_csv("any.csv", "y")


def test_another_process_encodes_the_same(tmp_path):
    dataset = from_frame(houses(), "price")
    (tmp_path / "encoder").write_bytes(pickle.dumps(dataset.encoder))
    houses(5, seed=3).to_pickle(tmp_path / "rows")
    code = (
        "import pickle, pandas, sys\n"
        "encoder = pickle.load(open(sys.argv[1] + '/encoder', 'rb'))\n"
        "print(encoder.encode(pandas.read_pickle(sys.argv[1] + '/rows')).tobytes().hex())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == dataset.encoder.encode(houses(5, seed=3)).tobytes().hex()
