import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from image_files import fits, npy, png, tiff
from PIL import Image

from lejepa_hf.data.found_images import log_found_images, logged_description
from lejepa_hf.data.sources import load_source

RNG = np.random.default_rng(0)
NO_DATA = {42113: b"-9999\0"}


def messages(caplog, folder, pixel_range=None, **settings) -> list[str]:
    caplog.clear()
    with caplog.at_level("INFO", "lejepa_hf"):
        log_found_images(load_source(folder, **settings), pixel_range)
    name = f"{folder}: "
    return [text.removeprefix(name) for text in caplog.messages if "in column" not in text]


def save(folder, pictures: dict[str, np.ndarray]):
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            (folder / name).write_bytes(npy(pixels))
        elif pixels.dtype == np.uint16 and pixels.ndim == 3:
            (folder / name).write_bytes(png(pixels))
        else:
            Image.fromarray(pixels).save(folder / name)


def noise(*shape: int, kind: str = "u1", high: int = 256) -> np.ndarray:
    return RNG.integers(0, high, shape, dtype=kind)


@pytest.mark.parametrize("streaming", [False, True])
def test_one_line_says_what_a_folder_holds(tmp_path, caplog, streaming):
    save(tmp_path, {f"fir/{i}.png": noise(6, 8 + i, 3) for i in range(3)} | {"oak/a.jpg": noise(20, 30)})
    (tmp_path / "oak" / "broken.png").write_bytes(b"no image")
    (line,) = messages(caplog, tmp_path, streaming=streaming)
    if streaming:  # which is not read
        assert line == "5 images"
        return
    assert line.startswith("5 images; 4 were read: 3 PNG, 1 JPEG; 8 x 6 to 30 x 20 pixels, median 10 x 6; channels 1")
    assert line.endswith("values uint8 from 0 to 255; 2 classes by 'label' (fir, oak) of 2 to 3 images")


@pytest.mark.parametrize(
    ("picture", "pixel_range", "is_dark"),
    [
        (lambda: noise(6, 8, kind="u2", high=4096), None, True),
        (lambda: noise(6, 8, kind="u2", high=4096), [0, 4095], False),
        (lambda: noise(6, 8, kind="u2", high=60000), None, False),
        (lambda: noise(6, 8, 3, kind="u2", high=4096), None, True),
        (lambda: noise(6, 8, 3, kind="u2", high=4096), [0, 4095], False),
        (lambda: noise(6, 8), None, False),
    ],
)
def test_images_that_become_nearly_black(tmp_path, caplog, picture, pixel_range, is_dark):
    save(tmp_path, {f"{i}.png": picture() for i in range(3)})
    found = messages(caplog, tmp_path, pixel_range)
    assert ["nearly black" in text for text in found] == [False] + [True] * is_dark


@pytest.mark.parametrize(
    ("file_of", "channels", "kind"),
    [
        (lambda: tiff(np.where(noise(6, 8) < 99, -9999, 700).astype("i2"), tags=NO_DATA), 1, "int16"),
        (lambda: tiff(*(noise(6, 8) % np.uint16(2) + np.uint16(700 + page) for page in range(2))), 2, "uint16"),
        (lambda: tiff(noise(6, 8, 3, kind="u2", high=3) + np.uint16(700)), 3, "uint16"),
        (lambda: fits(noise(6, 8) % 3 + 700.0), 1, "float64"),
        (lambda: npy(np.where(noise(6, 8) < 99, np.nan, 700).astype("f4")), 1, "float32"),
    ],
    ids=["no-data", "pages", "colours", "FITS", "NaN"],
)
def test_the_values_are_those_of_the_files(tmp_path, caplog, file_of, channels, kind):
    pytest.importorskip("tifffile")
    pytest.importorskip("astropy")
    for number in range(3):
        content = file_of()
        ending = {b"S": "fits", b"\x93": "npy"}.get(content[:1], "tif")
        (tmp_path / f"{number}.{ending}").write_bytes(content)
    with caplog.at_level("INFO", "lejepa_hf"):
        log_found_images(load_source(tmp_path), num_channels=channels)
    found = re.search(f"3 were read: .*; channels {channels}, values {kind} from (\\d+) to (\\d+)", caplog.text)
    assert 700 <= int(found[1]) <= int(found[2]) <= 702


def test_files_of_few_bits_are_not_dark(tmp_path, caplog):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(noise(6, 8, high=16), bits=4))
    (line,) = messages(caplog, tmp_path)
    assert line.endswith("channels 1, values uint8 from 0 to 15")


def test_large_images_that_differ_in_the_middle_are_not_the_same(tmp_path, caplog):
    for number in range(3):
        picture = np.zeros((300, 300, 3), np.uint8)
        picture[150, 150] = 100 + number
        save(tmp_path, {f"{number}.npy": picture})
    assert len(messages(caplog, tmp_path)) == 1  # no warning


def test_images_that_look_wrong(tmp_path, caplog):
    save(tmp_path / "constant", {f"{i}.png": np.full((6, 8), 50 * i, np.uint8) for i in range(1, 4)})
    assert "a single value in all its pixels" in messages(caplog, tmp_path / "constant")[1]
    save(tmp_path / "same", dict.fromkeys(("a.npy", "b.npy"), noise(6, 8)))
    assert "are the same one" in messages(caplog, tmp_path / "same")[1]
    save(tmp_path / "classes", {f"{i}/a.png": noise(6, 8) for i in range(3)})
    assert any(
        "each of the 3 classes in 'label' has one image" in text for text in messages(caplog, tmp_path / "classes")
    )


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["a.png", "a_mask.png", "b.png", "b_mask.png"], "2 of 4 images look like masks by their names ('a_mask.png'"),
        (["images/a.png", "masks/a.png"], "1 of 2 images look like masks by their names ('a.png' in 'masks')"),
        (["a.png", "a-GT.png"], "1 of 2 images look like masks"),
        (["masked_ball/a.png", "b.png", "segment.png"], None),
        (["masks/a.png", "masks/b.png"], None),
    ],
)
def test_masks_beside_images(tmp_path, caplog, names, warned):
    save(tmp_path, {name: noise(6, 8) for name in names})
    warnings = [text for text in messages(caplog, tmp_path) if "masks" in text and "look like" in text]
    assert len(warnings) == (warned is not None) and all(warned in text for text in warnings)


def test_the_description_is_kept(tmp_path, caplog):
    save(tmp_path, {f"{i}.png": noise(6, 8) for i in range(3)})
    assert logged_description(load_source(tmp_path)) is None
    (line,) = messages(caplog, tmp_path)
    assert logged_description(load_source(tmp_path)) == line and messages(caplog, tmp_path) == []


def test_nothing_that_can_be_read(caplog):
    features = Features({"image": ImageFeature(decode=False), "label": ClassLabel(names=["a"])})
    rows = Dataset.from_dict({"image": [{"bytes": b"", "path": None}], "label": [0]}, features=features)
    with caplog.at_level("INFO", "lejepa_hf"):
        log_found_images(load_source(rows))
    assert "1 images; 1 classes" in caplog.text
