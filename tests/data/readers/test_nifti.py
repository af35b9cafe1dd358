"""Volumes that nibabel ships or writes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image  # noqa: E402
from lejepa_hf.data.held_out_share import split_off  # noqa: E402
from lejepa_hf.data.sources import load_source  # noqa: E402

SHIPPED = Path(os.path.dirname(nibabel.__file__), "tests", "data")
VALUES = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def save(path, values: np.ndarray = VALUES, **header):
    image = nibabel.Nifti1Image(values, np.eye(4))
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((np.asarray(values, float) - low) * 255 / (high - low), 0, 255).round()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("axis", "number"), [(None, 6), (0, 4), (1, 5), (2, 6)])
@pytest.mark.parametrize("streaming", [False, True])
def test_slices_along_an_axis(tmp_path, ending, axis, number, streaming):
    save(tmp_path / f"a{ending}")
    source = load_source(tmp_path, streaming=streaming, slice_axis=axis)
    rows = [row["image"] for row in source.dataset]
    assert len(rows) == number == source.num_images
    for place, row in enumerate(rows):
        expected = scaled(np.take(VALUES, place, 2 if axis is None else axis), -160, 240)
        assert (np.asarray(decode_image(row, 1, [-160.0, 240.0])) == expected).all()


def test_values_are_scaled_by_the_header(tmp_path):
    image = nibabel.Nifti1Image(VALUES.astype(np.float64) / 2000 + 0.5, np.eye(4))
    image.header.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    nibabel.save(image, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").dataobj.slope != 1
    found = np.asarray(decode_image(f"{tmp_path / 'a.nii'}#slice=3", 1)).astype(int)
    assert abs(found - scaled(VALUES[:, :, 3], -1000, 1000)).max() <= 1


def test_the_range_of_the_header_is_used_unless_one_is_given(tmp_path):
    save(tmp_path / "a.nii", cal_min=-100, cal_max=300)
    path = f"{tmp_path / 'a.nii'}#slice=0"
    assert (np.asarray(decode_image(path, 1)) == scaled(VALUES[:, :, 0], -100, 300)).all()
    assert (np.asarray(decode_image(path, 1, [-1000.0, 1000.0])) == scaled(VALUES[:, :, 0], -1000, 1000)).all()
    save(tmp_path / "b.nii")
    whole = (VALUES[:, :, 0].astype(int) + 32768) * 255 / 65535
    assert (np.asarray(decode_image(f"{tmp_path / 'b.nii'}#slice=0", 1)) == whole.round()).all()


def test_a_fourth_axis_has_the_channels(tmp_path):
    several = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 4), dtype=np.uint8)
    save(tmp_path / "a.nii", several)
    assert (np.asarray(decode_image(f"{tmp_path / 'a.nii'}#slice=2", 4)) == several[:, :, 2]).all()
    for channels in (1, 3, 5):
        with pytest.raises(DECODING_ERRORS, match=f"has 4 channels, but {channels} are expected"):
            decode_image(f"{tmp_path / 'a.nii'}#slice=2", channels)
    save(tmp_path / "b.nii", several[..., :1])
    assert (np.asarray(decode_image(f"{tmp_path / 'b.nii'}#slice=2,0")) == several[2, :, :, 0]).all()


def test_files_of_nibabel(tmp_path):
    for name in ("anatomical.nii", "example4d.nii.gz"):
        shutil.copy(SHIPPED / name, tmp_path)
    anatomical, series = (nibabel.load(tmp_path / name) for name in ("anatomical.nii", "example4d.nii.gz"))
    source = load_source(tmp_path, slice_axis=1)
    assert source.num_images == anatomical.shape[1] + series.shape[1]
    values = np.asarray(anatomical.dataobj)[:, 7]
    found = np.asarray(decode_image(source.dataset[7]["image"], 1, [0.0, 15000.0]))
    assert abs(found - scaled(values, 0, 15000)).max() <= 1 and found.std() > 10
    found = np.asarray(decode_image(source.dataset[-1]["image"], series.shape[3], [0.0, 1000.0]))
    assert abs(found - scaled(np.asarray(series.dataobj)[:, -1], 0, 1000)).max() <= 1


def test_slices_of_one_volume_are_held_out_together(tmp_path):
    for name in range(8):
        save(tmp_path / f"{name}.nii")
    train, held_out = split_off(load_source(tmp_path), "25%")
    sides = [{row["image"]["path"].split("#")[0] for row in side.dataset} for side in (train, held_out)]
    assert not sides[0] & sides[1] and held_out.num_images == 2 * 6


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("", "has slices, of which none is named"),
        ("#slice=6", r"has no slice 6 along axis 2"),
        ("#slice=0,3", "has no slice 0 along axis 3"),
        ("#frame=0", "A volume has slices, not a frame"),
    ],
)
def test_slices_that_are_not_there(tmp_path, part, message):
    save(tmp_path / "a.nii")
    with pytest.raises(DECODING_ERRORS, match=message):
        decode_image(f"{tmp_path / 'a.nii'}{part}", 1)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no")
    row = load_source(tmp_path).dataset[0]["image"]
    with pytest.raises(DECODING_ERRORS, match="nibabel cannot read this NIfTI volume"):
        decode_image(row)
    save(tmp_path / "b.nii", np.zeros((2, 3, 4, 1, 3), np.float32))
    with pytest.raises(DECODING_ERRORS, match="has 5 axes"):
        decode_image(f"{tmp_path / 'b.nii'}#slice=0")
    save(tmp_path / "c.nii")
    with pytest.raises(DECODING_ERRORS, match="5 x 4 pixels are more than"):
        decode_image(f"{tmp_path / 'c.nii'}#slice=0", 1, max_image_pixels=10)
