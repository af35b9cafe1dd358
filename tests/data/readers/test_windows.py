import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import fits
from PIL import Image

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.found_images import log_found_images
from lejepa_hf.data.held_out_share import split_off
from lejepa_hf.data.sources import load_source

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def save(path, pixels=PIXELS, **settings):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_grid_of_windows(tmp_path, streaming):
    save(tmp_path / "a.png")
    source = load_source(tmp_path, streaming=streaming, window_size=20)
    rows = [row["image"] for row in source.dataset]
    assert len(rows) == source.num_images == 3 * 2  # the last 10 rows and columns are not used
    for place, row in enumerate(rows):
        left, top = 20 * (place % 3), 20 * (place // 3)
        assert (np.asarray(decode_image(row)) == PIXELS[top : top + 20, left : left + 20]).all()


def test_windows_of_images_that_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", exif=exif)
    rows = load_source(tmp_path, window_size=30).dataset
    upright = np.rot90(PIXELS, -1)
    assert [row["image"]["path"].split("#")[1] for row in rows] == ["window=0,0,30,30", "window=0,30,30,30"]
    assert (np.asarray(decode_image(rows[1]["image"])) == upright[30:60, :30]).all()


def test_smaller_images_are_left_out_with_a_warning(tmp_path, caplog):
    save(tmp_path / "a" / "large.png")
    save(tmp_path / "b" / "small.png", PIXELS[:10])
    (tmp_path / "b" / "broken.png").write_bytes(b"no")
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        source = load_source(tmp_path, window_size=32)
    assert "1 of 3 images are smaller than `window_size` 32 and are left out, 'b/small.png'" in caplog.text
    assert source.dataset["label"] == [0, 0, 1] and source.class_names == ["a", "b"]
    with pytest.raises(DECODING_ERRORS, match="cannot identify"):
        decode_image(source.dataset[2]["image"])
    (tmp_path / "b" / "broken.png").unlink()
    with pytest.raises(ValueError, match="smaller than `window_size` 512, .* choose smaller windows"):
        load_source(tmp_path / "b", window_size=512)


def assert_windows(folder: Path, whole: dict[str, np.ndarray], num_channels: int, pixel_range: list[float] | None):
    """Each image of the folder, by its address, is cut into its windows of 16 pixels."""
    found = [row["image"]["path"] for row in load_source(folder, window_size=16).dataset]
    seen = {}
    for address in found:
        image, _, part = address.rpartition("window=")
        left, top, width, height = map(int, part.split(","))
        expected = whole[Path(image[:-1]).name][top : top + height, left : left + width]
        assert (np.asarray(decode_image(address, num_channels, pixel_range)) == expected).all()
        seen[image] = seen.get(image, 0) + 1
    assert len(seen) == len(whole) and set(seen.values()) == {4 * 3}


VALUES = np.random.default_rng(1).integers(0, 4096, (50, 70, 5), dtype=np.uint16)


def scaled(values: np.ndarray, high: float = 4095) -> np.ndarray:
    return np.clip(values * (255 / high), 0, 255).round()


def test_windows_of_arrays(tmp_path):
    """Channels last or first, or a single one; of those of five bands only the values of a window are read."""
    np.save(tmp_path / "last.npy", VALUES)
    np.save(tmp_path / "first.npy", np.moveaxis(VALUES, -1, 0))
    assert_windows(tmp_path, dict.fromkeys(("last.npy", "first.npy"), scaled(VALUES)), 5, [0.0, 4095.0])
    with pytest.raises(DECODING_ERRORS, match="5 channels, but 3 are expected"):
        decode_image(f"{tmp_path / 'last.npy'}#window=0,0,16,16")
    path = f"{tmp_path / 'last.npy'}#window=0,0,16,16"
    assert np.asarray(decode_image(path, 5, max_image_pixels=16 * 16)).shape == (16, 16, 5)
    with pytest.raises(DECODING_ERRORS, match="not within 70 x 50 pixels"):
        decode_image(f"{tmp_path / 'last.npy'}#window=60,0,16,16", 5)
    (tmp_path / "grey").mkdir()
    np.save(tmp_path / "grey" / "a.npy", VALUES[..., 0] / np.float32(4095))
    assert_windows(tmp_path / "grey", {"a.npy": scaled(VALUES[..., 0])}, 1, None)


def test_windows_of_fits(tmp_path):
    pytest.importorskip("astropy")
    (tmp_path / "a.fits").write_bytes(fits(np.moveaxis(VALUES, -1, 0).astype(np.int16)))
    assert_windows(tmp_path, {"a.fits": scaled(VALUES)[::-1]}, 5, [0.0, 4095.0])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_windows_of_the_slices_of_a_volume(tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), tmp_path / f"a{ending}")
    slices = {f"a{ending}#slice={place}": scaled(VALUES[..., place]) for place in range(5)}
    assert_windows(tmp_path, slices, 1, [0.0, 4095.0])
    rows = load_source(tmp_path, window_size=5, slice_axis=0).dataset
    assert len(rows) == 50 * 14 and rows[14]["image"]["path"].endswith("#slice=1,0&window=0,0,5,5")
    assert (np.asarray(decode_image(rows[14]["image"], 1, [0, 4095])) == scaled(VALUES[1, :5, :5])).all()


def test_windows_of_dicom(tmp_path):
    """Of one image, whose window of values and padding are its own, and of the frames of a file."""
    pydicom = pytest.importorskip("pydicom")
    for name in ("MR_small.dcm", "SC_rgb_rle_2frame.dcm"):
        shutil.copy(pydicom.data.get_testdata_file(name, download=False), tmp_path)
    for source in (load_source(tmp_path), load_source(tmp_path, window_size=20)):
        rows = [row["image"]["path"] for row in source.dataset]
    whole = {row["image"]["path"]: np.asarray(decode_image(row["image"])) for row in load_source(tmp_path).dataset}
    assert len(whole) == 3 and len(rows) == 3 * 3 + 2 * 5 * 5
    for address in rows:
        image, _, part = address.rpartition("window=")
        left, top, width, height = map(int, part.split(","))
        assert (np.asarray(decode_image(address)) == whole[image[:-1]][top : top + height, left : left + width]).all()


def test_broken_files_of_each_format_are_broken_images(tmp_path):
    for ending in (".npy", ".fits", ".dcm", ".nii", ".png", ".tif"):
        (tmp_path / f"a{ending}").write_bytes(b"no")
    rows = load_source(tmp_path, window_size=8).dataset
    for row in rows:
        with pytest.raises(DECODING_ERRORS) as caught:
            decode_image(row["image"])
        assert "\n" not in str(caught.value)


def test_the_log_says_what_windows_hold(tmp_path, caplog):
    np.save(tmp_path / "a.npy", VALUES)
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        log_found_images(load_source(tmp_path, window_size=16))
    assert "12 images; 12 were read: 12 images; 16 x 16 pixels; channels 5, values uint16 from " in caplog.text


def test_windows_of_one_file_are_held_out_together(tmp_path):
    for name in range(12):
        save(tmp_path / f"{name}.png")
    train, held_out = split_off(load_source(tmp_path, window_size=16), "25%")
    sides = [{row["image"]["path"].split("#")[0] for row in side.dataset} for side in (train, held_out)]
    assert not sides[0] & sides[1] and len(sides[1]) == 3 and held_out.num_images == 3 * 12


def test_one_file_cannot_be_held_out_of_itself(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="`eval_split` '25%' cannot part the 12 images .* of one file"):
        split_off(load_source(tmp_path, window_size=16), "25%")


def test_a_limit_of_pixels_is_that_of_the_image_that_is_decoded(tmp_path):
    save(tmp_path / "a.png")
    path = f"{tmp_path / 'a.png'}#window=0,0,10,10"
    with pytest.raises(DECODING_ERRORS, match="70 x 50 pixels are more than `max_image_pixels`, 100"):
        decode_image(path, max_image_pixels=100)
    with pytest.raises(DECODING_ERRORS, match="not within 70 x 50 pixels"):
        decode_image(f"{tmp_path / 'a.png'}#window=65,0,10,10")
