import io
import pickle

import numpy as np
import pytest

from lejepa_hf.data.decoding import DECODING_ERRORS
from lejepa_hf.data.pixel_arrays import eight_bit_channels_last, is_npy, read_npy, to_eight_bit_array

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 4, 5), dtype=np.uint8)


def npy(array, **settings) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("values", "dtype", "pixel_range", "expected"),
    [
        ([0, 7, 255], np.uint8, None, [0, 7, 255]),
        ([0, 7, 14, 255], np.uint8, [0.0, 14.0], [0, 128, 255, 255]),
        ([0, 7, 255], np.uint8, [0.0, 256.0], [0, 7, 255]),  # a range of other images beside them
        ([0, 7, 255], np.uint8, [0.0, 1.0], [0, 7, 255]),
        ([0, 255, 256, 65535], np.uint16, None, [0, 0, 1, 255]),
        ([0, 5000, 10000, 65535], np.uint16, [0.0, 10000.0], [0, 128, 255, 255]),
        ([100, 200, 300, 500], ">u2", [200.0, 400.0], [0, 0, 128, 255]),
        ([-32768, 0, 32767], np.int16, None, [0, 128, 255]),
        ([-1000, 0, 1000], np.int16, [-1000.0, 1000.0], [0, 128, 255]),
        ([-128, 127], np.int8, None, [0, 255]),
        ([0, 255], np.int64, None, [0, 255]),
        ([0, 2**40], np.int64, [0.0, 2.0**40], [0, 255]),
        ([-1.0, 0.0, 0.5, 1.0, 3.0, np.nan, np.inf], np.float32, None, [0, 0, 128, 255, 255, 0, 255]),
        ([0.2, 0.3, 0.4], np.float64, [0.2, 0.4], [0, 128, 255]),
        ([0.0, 1.0], np.float16, None, [0, 255]),
        ([False, True], np.bool_, None, [0, 255]),
    ],
)
def test_values(values, dtype, pixel_range, expected):
    array = np.array(values, dtype=dtype)
    before = array.copy()
    found = to_eight_bit_array(array, pixel_range)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), expected, atol=1 if 128 in expected else 0)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("values", [[0, 256], [-1, 5], [0.5, 3.0, 255.0], [-1.5, -0.5, np.nan]])
def test_values_without_a_natural_range_need_one(values):
    array = np.array(values)
    found = rf"{array.dtype} go from {np.nanmin(array)} to {np.nanmax(array)}, .*`pixel_range: \[low, high\]`"
    with pytest.raises(ValueError, match=found):
        to_eight_bit_array(array, None)


def test_what_files_say_of_their_values():
    array = np.array([0, 2047, 4095, 5], np.uint16)
    np.testing.assert_array_equal(to_eight_bit_array(array, None, [0, 4095]), [0, 127, 255, 0])
    np.testing.assert_array_equal(to_eight_bit_array(array, [0, 4095], is_inverted=True), [255, 128, 0, 255])
    np.testing.assert_array_equal(to_eight_bit_array(array, [0, 4095], None, 4095, True), [255, 128, 0, 255])
    floats = np.array([-9999, -9999, -9999, 0.5], np.float32)
    np.testing.assert_array_equal(to_eight_bit_array(floats, None, no_data=-9999), [0, 0, 0, 128])


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((6, 4, 5), 5, (6, 4, 5)),
        ((5, 6, 4), 5, (6, 4, 5)),
        ((5, 6, 5), 5, (5, 6, 5)),  # both fit: the last axis
        ((6, 4), 1, (6, 4)),
        ((6, 4, 1), 1, (6, 4)),
        ((1, 6, 9), 1, (6, 9)),
        ((1, 6, 9), 3, (6, 9)),  # greyscale of torch
        ((3, 6, 9), 1, (6, 9, 3)),
        ((6, 4), 3, (6, 4)),
        ((3, 6, 9), 3, (6, 9, 3)),
        ((6, 9, 4), 3, (6, 9, 4)),  # left to PIL, which drops the alpha channel
    ],
)
def test_axes(shape, channels, expected):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    for value in (array, array.tolist()):
        found = eight_bit_channels_last(value, channels, None)
        assert found.shape == expected and found.dtype == np.uint8 and found.flags.c_contiguous
        if shape in ((5, 6, 4), (1, 6, 9), (3, 6, 9)):  # channels first
            np.testing.assert_array_equal(found, np.squeeze(np.moveaxis(array, 0, -1)))
        else:
            np.testing.assert_array_equal(found, array.reshape(expected))


@pytest.mark.parametrize(
    ("shape", "channels", "found"), [((6, 9, 5), 4, 5), ((6, 9), 2, 1), ((6, 9, 5), 3, 5), ((4, 6, 9), 3, 9)]
)
def test_other_channels_than_expected(shape, channels, found):
    with pytest.raises(ValueError, match=f"has {found} channels, but {channels} are expected.*`image_mean`"):
        eight_bit_channels_last(np.zeros(shape, np.uint8), channels, None)


@pytest.mark.parametrize("value", [[1, 2], ["a.png"], np.zeros((2, 2), complex), np.zeros((2, 2, 2, 2)), [[]]])
def test_no_images(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        eight_bit_channels_last(value, 3, None)


def test_npy_from_bytes_and_files(tmp_path):
    (tmp_path / "a.NPY").write_bytes(npy(BYTES))
    for value in (npy(BYTES), tmp_path / "a.NPY", str(tmp_path / "a.NPY")):
        assert is_npy(value)
        np.testing.assert_array_equal(read_npy(value), BYTES)
    assert not is_npy(b"\x89PNG") and not is_npy("a.png") and not is_npy(BYTES) and not is_npy(None)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy"):
        read_npy(tmp_path / "nowhere.npy")


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_nothing_is_unpickled():
    objects = npy(np.array([Trap()], dtype=object), allow_pickle=True)
    for data in (objects, pickle.dumps(Trap())):
        with pytest.raises(ValueError):
            read_npy(data)


def test_damaged_files_raise_decoding_errors_only():
    rng, whole, refused = np.random.default_rng(1), npy(BYTES), 0
    for trial in range(400):
        data = bytearray(whole)
        for place in rng.integers(6, 100 if trial % 2 else len(data), size=3):
            data[place] = rng.integers(256)
        if trial % 5 == 0:
            del data[rng.integers(6, len(data)) :]
        try:
            eight_bit_channels_last(read_npy(bytes(data)), 5, None)
        except DECODING_ERRORS:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("shape", [(2**50, 64), (2**70, 3), (2**62, 64)])
def test_headers_that_promise_too_much(shape):
    with pytest.raises(ValueError, match=r"header of the \.npy file|reshape|read|dimension"):
        read_npy(promising(shape))


def promising(shape) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


RANGES = [[0.0, 4095.0], [100.0, 300.0], [-50.0, 60_000.0]]


@pytest.mark.parametrize("kind", ["u2", ">u2", "i4", "f4"])
def test_a_range_for_each_channel(kind):
    array = np.random.default_rng(0).integers(0, 5000, (6, 5, 3)).astype(kind)
    found = to_eight_bit_array(array, RANGES)
    for channel, pair in enumerate(RANGES):
        np.testing.assert_array_equal(found[:, :, channel], to_eight_bit_array(array[:, :, channel], pair))
    first = eight_bit_channels_last(np.moveaxis(array, -1, 0), 3, RANGES)
    np.testing.assert_array_equal(first, found)
    with pytest.raises(ValueError, match="`pixel_range` has 3 pairs, .* but the image has 1 channels"):
        to_eight_bit_array(array[:, :, 0], RANGES)


def test_bytes_are_scaled_by_ranges_of_bytes_only():
    array = np.full((2, 2, 3), 100, np.uint8)
    assert to_eight_bit_array(array, [[0.0, 200.0], [50.0, 150.0], [0.0, 100.0]])[0, 0].tolist() == [128, 128, 255]
    assert to_eight_bit_array(array, RANGES)[0, 0].tolist() == [100] * 3


def test_one_of_several_ranges_may_be_that_of_all_bytes():
    array = np.full((2, 2, 3), 50, np.uint8)
    assert to_eight_bit_array(array, [[0.0, 255.0], [0.0, 100.0], [0.0, 200.0]])[0, 0].tolist() == [50, 128, 64]


def test_few_bits_of_a_byte_are_filled_up():
    np.testing.assert_array_equal(to_eight_bit_array(np.array([0, 1, 15], np.uint8), None, [0, 15]), [0, 17, 255])


def test_a_black_background_says_nothing_of_the_range():
    scan = np.zeros((10, 10), np.float32)
    scan[4:6] = 200.0
    with pytest.raises(ValueError, match=r"go from 200.0 to 200.0, .*`pixel_range: \[low, high\]`"):
        to_eight_bit_array(scan, None)
    assert to_eight_bit_array(np.zeros((2, 2), np.float32), None).max() == 0
