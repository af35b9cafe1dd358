import numpy as np
import pytest
from image_files import fits, png, tiff
from PIL import Image

from lejepa_hf.cli import main
from lejepa_hf.data.normalisation import measure_normalisation
from lejepa_hf.data.sources import load_source
from lejepa_hf.runs.recipe_text import load_yaml

RNG = np.random.default_rng(0)


def save(folder, images: list[np.ndarray]) -> None:
    for number, pixels in enumerate(images):
        if pixels.dtype == np.uint8:
            Image.fromarray(pixels).save(folder / f"{number}.png")
        else:
            np.save(folder / f"{number}.npy", pixels)


def test_mean_and_deviation_of_photographs(tmp_path):
    images = [RNG.integers(0, 50 * (number + 1), (20 + number, 30, 3), dtype=np.uint8) for number in range(4)]
    save(tmp_path, images)
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = measure_normalisation(load_source(tmp_path))
    pixels = [image.reshape(-1, 3) / 255 for image in images]
    mean = np.mean([one.mean(0) for one in pixels], axis=0)  # each image counts alike, whatever its size
    std = np.sqrt(np.mean([(one**2).mean(0) for one in pixels], axis=0) - mean**2)
    assert (found.num_images, found.pixel_range) == (4, None)
    np.testing.assert_allclose([found.image_mean, found.image_std], [mean, std], atol=6e-4)


@pytest.mark.parametrize(("kind", "scale"), [("u2", 1.0), ("i4", 1.0), ("f4", 0.01)])
def test_the_range_is_that_of_nearly_all_values(tmp_path, kind, scale):
    values = RNG.integers(100, 4096, (6, 40, 40, 2)) * scale
    values[0, 0, 0] = 60_000 * scale  # a hot pixel
    images = list(values.astype(kind))
    if kind == "f4":
        images[1][0, 0] = np.nan
    save(tmp_path, images)
    found = measure_normalisation(load_source(tmp_path), num_channels=2)
    assert found.pixel_range == pytest.approx([100 * scale, 4095 * scale], abs=20 * scale)
    low, high = found.pixel_range
    scaled = np.nan_to_num((np.array(images, float).clip(low, high) - low) / (high - low)).reshape(-1, 2)
    np.testing.assert_allclose([found.image_mean, found.image_std], [scaled.mean(0), scaled.std(0)], atol=3e-3)
    given = measure_normalisation(load_source(tmp_path), num_channels=2, pixel_range=[0, 8000 * scale])
    assert given.pixel_range == [0, 8000 * scale] and given.image_mean[0] == pytest.approx(2097 / 8000, abs=0.01)


NO_DATA = {42113: b"-9999\0"}
RASTERS = RNG.integers(100, 4096, (6, 40, 40, 3)).astype(np.int16)


def mostly_missing(values: np.ndarray) -> np.ndarray:
    """Values of which the lower part is missing."""
    values = values.copy()
    values[20:] = -9999
    return values


@pytest.mark.parametrize(
    ("file_of", "is_half"),
    [
        (lambda values: tiff(mostly_missing(values), tags=NO_DATA), True),  # read by tifffile
        (lambda values: tiff(*np.moveaxis(mostly_missing(values), -1, 0), tags=NO_DATA), True),  # by PIL
        (lambda values: tiff(values.astype(np.float64)), False),
        (lambda values: tiff(*np.moveaxis(values.astype(np.float64), -1, 0)), False),
        (lambda values: png(values.astype(np.uint16)), False),
        (lambda values: fits(np.moveaxis(values.astype(np.float64), -1, 0)), False),
        (lambda values: fits(np.moveaxis(mostly_missing(values), -1, 0), BLANK=-9999), True),
    ],
    ids=["raster", "pages", "float64", "pages of float64", "48-bit PNG", "FITS", "BLANK of FITS"],
)
def test_all_values_of_files_but_no_data(tmp_path, file_of, is_half):
    pytest.importorskip("tifffile")
    pytest.importorskip("astropy")
    values = RASTERS * np.array([1, 2, 3], np.int16)  # so that one page or band has not all values
    for number, picture in enumerate(values):
        content = file_of(picture)
        ending = "fits" if content.startswith(b"SIMPLE") else "png" if content[1:4] == b"PNG" else "tif"
        (tmp_path / f"{number}.{ending}").write_bytes(content)
    found = measure_normalisation(load_source(tmp_path))
    assert found.num_images == 6 and found.pixel_range == pytest.approx([100, 3 * 4095], abs=60)
    low, high = found.pixel_range
    there = values[:, :20] if is_half else values
    scaled = (there.clip(low, high) - low).reshape(-1, 3) / (high - low)
    np.testing.assert_allclose([found.image_mean, found.image_std], [scaled.mean(0), scaled.std(0)], atol=0.015)


def test_images_without_any_value_do_not_count(tmp_path):
    for number, picture in enumerate(RASTERS[..., 0]):
        (tmp_path / f"{number}.tif").write_bytes(
            tiff(np.full_like(picture, -9999) if number else picture, tags=NO_DATA)
        )
    found = measure_normalisation(load_source(tmp_path), num_channels=1)
    assert found.num_images == 1 and found.pixel_range == pytest.approx([100, 4095], abs=20)
    assert found.image_mean[0] == pytest.approx(0.5, abs=0.05)


def test_files_that_say_what_is_white_need_no_range(tmp_path):
    """12 bits of a TIFF, for example; what PIL makes of a measured range would be another picture."""
    for number, picture in enumerate(RASTERS[..., 0].astype(np.uint16)):
        (tmp_path / f"{number}.tif").write_bytes(tiff(picture, bits=12))
        (tmp_path / f"{number}.pgm").write_bytes(b"P5 40 40 4095\n" + picture.astype(">u2").tobytes())
    found = measure_normalisation(load_source(tmp_path), num_channels=1)
    assert (found.num_images, found.pixel_range) == (12, None)
    assert found.image_mean[0] == pytest.approx(RASTERS[..., 0].mean() / 4095, abs=0.01)


def test_grey_images_of_a_network_for_colours(tmp_path):
    save(tmp_path, [np.full((8, 8), 51, np.uint8), np.full((8, 8), 153, np.uint8)])
    found = measure_normalisation(load_source(tmp_path))
    assert (found.image_mean, found.image_std) == ([0.4] * 3, [0.2] * 3)


def test_a_constant_has_a_deviation_that_can_be_divided_by(tmp_path):
    save(tmp_path, [np.full((8, 8, 3), 255, np.uint8)])
    assert measure_normalisation(load_source(tmp_path)).image_std == [0.001] * 3


def test_no_image_can_be_read(tmp_path):
    save(tmp_path, [np.zeros((8, 8, 5), np.uint16)])
    with pytest.raises(ValueError, match="none of 1 images can be read: .* 5 channels, but 3 are expected"):
        measure_normalisation(load_source(tmp_path))


def test_the_command_prints_lines_of_a_recipe(tmp_path, capsys):
    images = tmp_path / "scans"
    images.mkdir()
    save(images, [RNG.integers(0, 4096, (40, 40), dtype=np.uint16) for _ in range(3)])
    assert main(["plan", "digits/resnet_tiny", "--dataset", str(images), "--eval_split", "null", "--use_cpu",
                 "--measure-normalisation"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.startswith(f"# measured on 3 images of {images}\n")
    lines = load_yaml(printed)
    assert list(lines) == ["pixel_range", "image_mean", "image_std"] and len(lines["image_mean"]) == 3
    assert lines["pixel_range"][1] == pytest.approx(4095, abs=20)
