import numpy as np
import pytest
import torch
from photo_tables import write_photos, write_table

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.figures import Figures
from lejepa_hf.evaluation.folds import make_folds
from lejepa_hf.evaluation.label_by_label import embeddings_of_columns, named_by_column, pairs_of_columns
from lejepa_hf.evaluation.labelled_sources import labelled_source, labelled_sources, labels_of

COLUMNS = ["Age group", "sex"]


@pytest.fixture
def table(tmp_path) -> str:
    columns = {"Age group": ["old", "mid", None, "old", "new", "mid"], "sex": ["f", None, None, "m", "f", "m"]}
    split = ["train"] * 4 + ["test"] * 2
    return write_table(tmp_path / "faces.csv", file=write_photos(tmp_path, 6), split=split, **columns)


def test_each_column_has_its_own_images_and_classes(table):
    pair = labelled_sources(table, label_column=COLUMNS)
    assert pair[0].num_images == 3 and pair[0].label_kind is None and pair[0].label_column == "Age group"
    pairs = pairs_of_columns(pair)
    assert list(pairs) == COLUMNS
    found = {column: [labels_of(source).tolist() for source in pairs[column]] for column in COLUMNS}
    assert found == {"Age group": [[1, 0, 1], [2, 0]], "sex": [[0, 1], [0, 1]]}
    assert pairs["Age group"][1].class_names == ["mid", "old", "new"] and pairs["sex"][0].label_kind == "class"


def test_embeddings_by_column(table):
    source = labelled_sources(table, label_column=COLUMNS)[0]
    embeddings = torch.arange(2.0)[:, None]  # the second image is broken
    embedded = LabelledEmbeddings(embeddings, torch.zeros(2), embeddings + 5, frozenset([1]))
    found = embeddings_of_columns(embedded, source)
    assert found["sex"].labels.tolist() == [0, 1] and found["sex"].class_names == ["f", "m"]
    assert found["Age group"].embeddings.tolist() == [[0], [1]] and found["sex"].probe_features.tolist() == [[5], [6]]
    assert embeddings_of_columns(embedded, labelled_sources(table, label_column="sex")[0]) == {"": embedded}


def test_names_of_figures():
    figures = Figures({"eval_linear_top1": 0.5, "eval_linear_top1_ci95": 0.1}, {"eval_linear_top1": np.ones(2)})
    figures.resamples["eval_linear_macro_f1"] = 2, np.ones(3)
    named = named_by_column(figures, "Age group")
    assert named == {"eval_age_group_linear_top1": 0.5, "eval_age_group_linear_top1_ci95": 0.1}
    assert list(named.resamples) == ["eval_age_group_linear_macro_f1"]
    assert list(named.samples) == ["eval_age_group_linear_top1"] and named_by_column(figures, "") is figures


def test_what_cannot_be_evaluated_column_by_column(table):
    with pytest.raises(ValueError, match="one by one, for which streams cannot be used"):
        labelled_sources(table, label_column=COLUMNS, streaming=True)
    with pytest.raises(ValueError, match="`folds` take one column of labels, but `label_column` names Age group, sex"):
        make_folds(labelled_source(table, label_column=COLUMNS), 2, ["knn"])


@pytest.mark.parametrize(("other", "name"), [("age-GROUP", "'age_group', 'age_group'"), ("%", "'age_group', ''")])
def test_columns_whose_figures_would_be_mixed_up(tmp_path, other, name):
    columns = {"Age group": ["old", "new"] * 2, other: ["a", "b"] * 2}
    table = write_table(
        tmp_path / "x.csv", file=write_photos(tmp_path, 4), split=["train"] * 2 + ["test"] * 2, **columns
    )
    with pytest.raises(ValueError, match=f"`label_column` 'Age group', '{other}': figures would be named {name}"):
        pairs_of_columns(labelled_sources(table, label_column=["Age group", other]))


def test_columns_that_are_not_all_classes(tmp_path):
    names = write_photos(tmp_path, 2)
    table = write_table(tmp_path / "x.csv", file=names, weight=[1.5, 2], sex=["f", "m"])
    with pytest.raises(ValueError, match="`label_column` 'weight' of .* holds double|float64.*must all hold classes"):
        labelled_source(table, label_column=["sex", "weight"])
