import numpy as np
import pytest
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
