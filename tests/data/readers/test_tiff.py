"""Pages and windows of TIFFs that tifffile writes."""

import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.sources import load_source

tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (90, 110, 3), dtype=np.uint8)
STACK = RNG.integers(0, 65536, (5, 20, 30), dtype=np.uint16)


def paths(folder, **settings) -> list[str]:
    source = load_source(folder, **settings)
    return [row["image"]["path"] for row in source.dataset]


def window_of(path, left: int, top: int, width: int, height: int, channels: int = 3, **settings) -> np.ndarray:
    return np.asarray(decode_image(f"{path}#window={left},{top},{width},{height}", channels, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"tile": (32, 32), "photometric": "rgb"},
        {"tile": (32, 48), "photometric": "rgb", "compression": "zlib", "predictor": True},
        {"tile": (32, 32), "photometric": "rgb", "planarconfig": "separate"},
        {"rowsperstrip": 7, "photometric": "rgb"},
        {"photometric": "rgb", "compression": "lzw"},
    ],
    ids=["tiles", "compressed", "planes", "strips", "one strip"],
)
def test_windows_are_the_same_part_of_the_whole(tmp_path, settings):
    planar = settings.get("planarconfig") == "separate"
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(COLOURS, -1, 0) if planar else COLOURS, **settings)
    for left, top, width, height in ((0, 0, 32, 32), (17, 5, 40, 61), (60, 40, 50, 50), (109, 89, 1, 1)):
        found = window_of(tmp_path / "a.tif", left, top, width, height)
        assert (found == COLOURS[top : top + height, left : left + width]).all()


def test_windows_of_jpeg_tiles_are_what_tifffile_makes_of_the_whole(tmp_path):
    smooth = np.dstack([np.linspace(0, 255, 96 * 96).reshape(96, 96)] * 3).astype(np.uint8)
    smooth[..., 1] = 255 - smooth[..., 1]
    tifffile.imwrite(tmp_path / "a.svs", smooth, tile=(32, 32), photometric="rgb", compression="jpeg")
    whole = tifffile.imread(tmp_path / "a.svs")
    assert (window_of(tmp_path / "a.svs", 20, 30, 40, 50) == whole[30:80, 20:60]).all()
    assert abs(whole.astype(int) - smooth).mean() < 4


def test_depth_and_range_of_windows(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], tile=(16, 16))
    expected = (STACK[0, 4:12, 3:19] >> 8).astype(np.uint8)
    assert (window_of(tmp_path / "a.tif", 3, 4, 16, 8, 1) == expected).all()
    scaled = np.clip(STACK[0, 4:12, 3:19] * (255 / 4095.0), 0, 255).round()
    assert (window_of(tmp_path / "a.tif", 3, 4, 16, 8, 1, pixel_range=[0.0, 4095.0]) == scaled).all()


def test_only_the_tiles_of_a_window_are_read(tmp_path):
    """All other tiles are destroyed, and nothing but the header and these tiles is read."""
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, COLOURS, tile=(16, 16), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        spared = {2 * 7 + 3, 2 * 7 + 4}  # row 2, columns 3 and 4 of 7
        spans = [
            (offset, count)
            for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True))
            if index not in spared
        ]
    with open(path, "r+b") as file:
        for offset, count in spans:
            file.seek(offset)
            file.write(b"\xff" * count)
    assert (window_of(path, 48, 32, 32, 16) == COLOURS[32:48, 48:80]).all()
    with pytest.raises(DECODING_ERRORS, match="tifffile cannot read this TIFF"):
        window_of(path, 48, 32, 33, 16)


def test_a_pyramid_has_the_windows_of_its_largest_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(COLOURS, tile=(32, 32), photometric="rgb", subifds=1)
        writer.write(COLOURS[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "b.svs") as writer:  # smaller pages that are not marked as such
        writer.write(COLOURS, tile=(32, 32), photometric="rgb")
        writer.write(COLOURS[::4, ::4], photometric="rgb")
    found = paths(tmp_path, window_size=40)
    assert len(found) == 2 * 2 * 2 and found[1].endswith("a.ome.tif#window=40,0,40,40")
    for path in found[1], found[5]:
        assert (np.asarray(decode_image(path)) == COLOURS[:40, 40:80]).all()


def test_channels_in_pages_of_a_window(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, tile=(16, 16), photometric="minisblack", metadata={"axes": "CYX"})
    found = window_of(tmp_path / "a.ome.tif", 2, 3, 8, 9, 5)
    assert (found == np.moveaxis(STACK[:, 3:12, 2:10] >> 8, 0, -1)).all()
    with pytest.raises(DECODING_ERRORS, match="5 channels, but 3"):
        window_of(tmp_path / "a.ome.tif", 2, 3, 8, 9)


def test_windows_that_cannot_be_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COLOURS, tile=(32, 32), photometric="rgb")
    with pytest.raises(DECODING_ERRORS, match="not within 110 x 90 pixels"):
        window_of(tmp_path / "a.tif", 100, 0, 32, 32)
    with pytest.raises(DECODING_ERRORS, match="64 x 64 pixels are more than `max_image_pixels`, 1024"):
        window_of(tmp_path / "a.tif", 0, 0, 64, 64, max_image_pixels=1024)
    assert window_of(tmp_path / "a.tif", 0, 0, 32, 32, max_image_pixels=1024).shape == (32, 32, 3)  # not of the whole
    with pytest.raises(DECODING_ERRORS, match="window has four numbers"):
        decode_image(f"{tmp_path / 'a.tif'}#window=3")


def test_pages_as_images(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    Image.fromarray(COLOURS).save(tmp_path / "b.tif")
    Image.fromarray(COLOURS).save(tmp_path / "c.png")
    found = paths(tmp_path, pages="images")
    assert [path.rsplit("/", 1)[1] for path in found] == [
        *(f"a.tif#page={page}" for page in range(5)),
        "b.tif",
        "c.png",
    ]
    for page in range(5):
        assert (np.asarray(decode_image(found[page])) == STACK[page] >> 8).all()
        scaled = np.clip(STACK[page] * (255 / 4095.0), 0, 255).round()
        assert (np.asarray(decode_image(found[page], 1, [0.0, 4095.0])) == scaled).all()
    with pytest.raises(DECODING_ERRORS, match="not a TIFF with a page 5"):
        decode_image(f"{tmp_path / 'a.tif'}#page=5")
    with pytest.raises(DECODING_ERRORS, match=r"5 channels, but 3 .* or set `pages: images` to take its 5 pages"):
        decode_image(str(tmp_path / "a.tif"))


def test_stacks_whose_images_have_no_pages_are_refused(tmp_path):
    """As tifffile writes them with `truncate`, and ImageJ above 4 GB."""
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX"}, truncate=True)
    for value in (paths(tmp_path, pages="images")[0], f"{tmp_path / 'a.tif'}#window=0,0,8,8"):
        with pytest.raises(DECODING_ERRORS, match="a stack of which only the first image has a page: write"):
            decode_image(value)


def test_pages_of_colours_and_of_several_sizes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(COLOURS, photometric="rgb")
        writer.write(np.moveaxis(STACK[:3], 0, -1), photometric="rgb")  # read by tifffile with a range
        writer.write(COLOURS[::2, ::2], photometric="rgb", subfiletype=1)  # a preview
    found = paths(tmp_path, pages="images")
    assert len(found) == 2 and (np.asarray(decode_image(found[0])) == COLOURS).all()
    scaled = np.clip(np.moveaxis(STACK[:3], 0, -1) * (255 / 40000.0), 0, 255).round()
    assert (np.asarray(decode_image(found[1], 3, [0.0, 40000.0])) == scaled).all()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u2", "u4", "u8"])
def test_pages_of_every_type_are_images(tmp_path, kind):
    """PIL does not know the types f2, i8 and u8."""
    stack = RNG.integers(0, 101, (3, 8, 9)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    found = paths(tmp_path, pages="images")
    assert [path.rsplit("#")[1] for path in found] == ["page=0", "page=1", "page=2"]
    for page, path in enumerate(found):
        scaled = np.clip(stack[page] * (255 / 102), 0, 255).round()
        assert (np.asarray(decode_image(path, 1, [0.0, 102.0])) == scaled).all()
    with pytest.raises(DECODING_ERRORS, match="not a TIFF with a page 3"):
        decode_image(f"{tmp_path / 'a.tif'}#page=3", 1, [0.0, 102.0])
    if kind[0] == "f":
        with pytest.raises(DECODING_ERRORS, match="of type float.* not from 0 to 1: set `pixel_range"):
            decode_image(found[0], 1)


def test_pages_of_several_types(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for kind in ("u1", "f2", "u2"):
            writer.write(np.full((4, 5), 50, kind), photometric="minisblack")
    for path in (found := paths(tmp_path, pages="images")):
        assert (np.asarray(decode_image(path, 1, [0.0, 100.0])) == 128).all()
    assert len(found) == 3


@pytest.mark.parametrize("bits", [4, 8])
def test_windows_of_a_palette_have_its_colours(tmp_path, bits):
    numbers = RNG.integers(0, 2**bits, (40, 50), dtype=np.uint8)
    image = Image.fromarray(numbers).convert("P")
    image.putdata(numbers.ravel().tolist())
    image.putpalette(RNG.integers(0, 256, 3 * 256, dtype=np.uint8).tobytes())
    image.save(tmp_path / "a.tif", compression="tiff_lzw", bits=bits)
    whole = np.asarray(decode_image(str(tmp_path / "a.tif")))
    assert whole.shape == (40, 50, 3) and len(np.unique(whole)) > 9
    assert (window_of(tmp_path / "a.tif", 7, 3, 20, 30) == whole[3:33, 7:27]).all()
    grey = np.asarray(decode_image(str(tmp_path / "a.tif"), 1))
    assert (window_of(tmp_path / "a.tif", 7, 3, 20, 30, 1) == grey[3:33, 7:27]).all()
    scaled = np.asarray(decode_image(str(tmp_path / "a.tif"), 3, [0, 100]))
    assert (window_of(tmp_path / "a.tif", 7, 3, 20, 30, pixel_range=[0, 100]) == scaled[3:33, 7:27]).all()
    with pytest.raises(DECODING_ERRORS, match="3 channels, but 4 are expected"):
        window_of(tmp_path / "a.tif", 0, 0, 8, 8, 4)


def test_windows_of_other_colours_are_refused_by_their_name(tmp_path):
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.tif")
    assert np.asarray(decode_image(str(tmp_path / "a.tif"))).shape == (90, 110, 3)
    with pytest.raises(DECODING_ERRORS, match=r"other colours than RGB, such as CMYK \(its tag 262 is 5\)"):
        window_of(tmp_path / "a.tif", 0, 0, 8, 8)
