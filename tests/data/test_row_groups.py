from dataclasses import replace

import pytest
from images_in_groups import digits_with, touch_images

from lejepa_hf.data.row_groups import check_group_column, groups_of, path_within, row_names
from lejepa_hf.data.sources import load_source

NAMES = [f"{kind}/{plot}/{number}.png" for kind in ("elm", "oak") for plot in "ab" for number in range(2)]


def test_rows_are_called_after_their_files(tmp_path):
    source = load_source(touch_images(tmp_path / "trees", *NAMES))
    assert row_names(source) == NAMES
    assert row_names(replace(source, dataset=source.dataset.select([7, 0]))) == [NAMES[7], NAMES[0]]
    (tmp_path / "trees").rename(tmp_path / "moved")
    assert row_names(load_source(tmp_path / "moved")) == NAMES
    assert row_names(load_source("digits"))[:3] == ["0", "1", "2"]
    assert path_within("/else/where.png", str(tmp_path)) == "/else/where.png"


def test_groups_are_values_of_a_column(tmp_path):
    source = load_source(digits_with(tmp_path / "scans.parquet", 4, patient=["a", "b", "a", "c"], plot=[3, 3, 1, 1]))
    assert groups_of(source, "patient") == ["a", "b", "a", "c"]
    assert groups_of(source, "plot") == ["3", "3", "1", "1"]
    assert len(groups_of(source, "label")) == 4
    with pytest.raises(
        ValueError, match="`group_column` '1' is not in .*; its columns are: image, label, patient, plot"
    ):
        groups_of(source, "1")
    with pytest.raises(ValueError, match="`group_column` 'image' of .* does not hold texts or numbers but Image"):
        check_group_column(source, "image")


def test_rows_without_a_group_are_refused(tmp_path):
    path = digits_with(tmp_path / "scans.parquet", 4, patient=["a", "a", None, "b"])
    with pytest.raises(ValueError, match="`group_column` 'patient' of .* is empty in 1 of 4 rows"):
        groups_of(load_source(path), "patient")


def test_groups_are_folders_above_an_image(tmp_path):
    source = load_source(touch_images(tmp_path, *NAMES))
    assert groups_of(source, "1") == ["elm"] * 4 + ["oak"] * 4
    assert groups_of(source, "2") == groups_of(source, "-1") == ["a", "a", "b", "b"] * 2, "one group in both kinds"
    assert groups_of(source, "-2") == groups_of(source, "1")
    with pytest.raises(ValueError, match="`group_column` '3': the image 'elm/a/0.png' of .* has only 2 folders above"):
        groups_of(source, "3")
    for wrong in ("plot", "0", "1.5"):
        with pytest.raises(
            ValueError, match=f"'{wrong}' is not in .*: image, label; or give a level of folders, such as"
        ):
            groups_of(source, wrong)
