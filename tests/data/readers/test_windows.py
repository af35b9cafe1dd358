import logging

import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
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


def test_files_without_windows_are_refused(tmp_path):
    save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", PIXELS)
    with pytest.raises(ValueError, match="`window_size` 16 cannot cut .npy files"):
        load_source(tmp_path, window_size=16)


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
