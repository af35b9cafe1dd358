"""DICOM files that pydicom ships or writes, against the formulas of the standard."""

import io
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image, open_image  # noqa: E402
from lejepa_hf.data.sources import load_source  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
STORED = np.array([[0, 1000, 2000], [2048, 3000, 4095]], np.uint16)


def path_of(name: str) -> str:
    return get_testdata_file(name, download=False)


def dicom(stored: np.ndarray = STORED, frames: int = 1, **attributes) -> bytes:
    """A file of 12 bits, written by pydicom."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored, dataset.HighBit = (12, 11) if stored.itemsize == 2 else (8, 7)
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = stored.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def pixels_of(value, pixel_range=None) -> np.ndarray:
    return np.asarray(decode_image(value, 1, pixel_range)).astype(int)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((np.asarray(values, float) - low) * 255 / (high - low), 0, 255).round().astype(int)


def test_without_a_window_the_stored_bits_are_the_range():
    assert (pixels_of(dicom()) == scaled(STORED, 0, 4095)).all()
    signed = STORED.astype(np.int16) - 2048
    assert (pixels_of(dicom(signed)) == scaled(signed, -2048, 2047)).all()
    rescaled = dicom(RescaleSlope=2, RescaleIntercept=-1024)
    assert (pixels_of(rescaled) == scaled(STORED, 0, 4095)).all()


def test_the_first_window_is_the_range_of_rescaled_values():
    value = dicom(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=[1000, 40], WindowWidth=[2001, 400])
    assert (pixels_of(value) == scaled(2.0 * STORED - 1024, 999.5 - 1000, 999.5 + 1000)).all()
    exact = dicom(WindowCenter=1000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
    assert (pixels_of(exact) == scaled(STORED, 0, 2000)).all()
    curve = dicom(WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    assert (pixels_of(curve) == (255 / (1 + np.exp(-4 * (STORED - 2000.0) / 1000))).round()).all()


def test_a_range_of_the_user_wins_in_rescaled_units():
    value = dicom(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    assert (pixels_of(value, [-1000.0, 3000.0]) == scaled(2.0 * STORED - 1024, -1000, 3000)).all()
    assert (
        pixels_of(dicom(WindowCenter=9, WindowWidth=9, VOILUTFunction="SIGMOID"), [0.0, 4095.0]) == pixels_of(dicom())
    ).all()


def test_a_table_of_the_file_is_the_curve_without_a_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], (np.arange(4096) // 32).astype(np.uint16).tobytes()
    value = dicom(VOILUTSequence=[table])
    assert (pixels_of(value) == STORED // 32).all()
    assert (pixels_of(value, [0.0, 4095.0]) == scaled(STORED, 0, 4095)).all()
    assert (pixels_of(dicom(ModalityLUTSequence=[table])) == STORED // 32).all()
    assert (pixels_of(dicom(ModalityLUTSequence=[table]), [0.0, 100.0]) == scaled(STORED // 32, 0, 100)).all()


def test_low_values_are_white_in_monochrome1_and_padding_is_black():
    inverted = pixels_of(dicom(PhotometricInterpretation="MONOCHROME1"))
    assert (inverted == 255 - pixels_of(dicom())).all()
    padded = pixels_of(dicom(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0))
    assert padded[0, 0] == 0 and (padded.ravel()[1:] == inverted.ravel()[1:]).all()
    signed = dicom(
        STORED.astype(np.int16) - 2048,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=-2048,
        PixelPaddingRangeLimit=-1048,
    )
    assert pixels_of(signed)[0].tolist()[:2] == [0, 0]


def test_eight_bits_are_as_they_are():
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (pixels_of(dicom(stored)) == stored).all()
    assert (pixels_of(dicom(stored, BitsStored=4, HighBit=3)) == scaled(stored, 0, 15)).all()
    assert (pixels_of(dicom(stored, WindowCenter=3, WindowWidth=5)) == scaled(stored, 0.5, 4.5)).all()


def test_windows_of_single_frames(tmp_path):
    """Multi-frame files of newer scanners keep them in functional groups."""
    frames = np.stack([STORED, STORED])
    groups = []
    for slope, centre in ((1, 500), (2, 3000)):
        value, window, group = Dataset(), Dataset(), Dataset()
        value.RescaleSlope, value.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = centre, 1001
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [value], [window]
        groups.append(group)
    (tmp_path / "multi.dcm").write_bytes(dicom(frames, 2, PerFrameFunctionalGroupsSequence=groups))
    for frame, (slope, centre) in enumerate(((1, 500), (2, 3000))):
        assert (
            pixels_of(f"{tmp_path / 'multi.dcm'}#frame={frame}")
            == scaled(slope * STORED.astype(float), centre - 500.5, centre + 499.5)
        ).all()


def test_files_of_pydicom():
    """A CT without a window, an MR with one, the same MR in other transfer syntaxes, and colours."""
    ct = pydicom.dcmread(path_of("CT_small.dcm"))
    hounsfield = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    assert (pixels_of(path_of("CT_small.dcm"), [-160.0, 240.0]) == scaled(hounsfield, -160, 240)).all()
    mr = pydicom.dcmread(path_of("MR_small.dcm"))
    window = scaled(
        mr.pixel_array,
        mr.WindowCenter - 0.5 - (mr.WindowWidth - 1) / 2,
        mr.WindowCenter - 0.5 + (mr.WindowWidth - 1) / 2,
    )
    for name in ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"):
        assert (pixels_of(path_of(name)) == window).all()
    rgb = np.asarray(decode_image(path_of("SC_rgb_rle.dcm")))
    assert (rgb == pydicom.dcmread(path_of("SC_rgb_rle.dcm")).pixel_array).all() and rgb.shape == (100, 100, 3)
    ybr = np.asarray(decode_image(path_of("SC_ybr_full_422_uncompressed.dcm")))
    assert abs(ybr.astype(int) - rgb).mean() < 1.5  # the same picture, with colours of half the resolution
    palette = np.asarray(decode_image(path_of("examples_palette.dcm")))
    assert palette.shape == (350, 800, 3) and palette.std() > 10


def test_frames_of_a_file_are_images_of_a_folder(tmp_path):
    for name in ("SC_rgb_rle_2frame.dcm", "MR_small.dcm"):
        shutil.copy(path_of(name), tmp_path)
    (tmp_path / "broken.dcm").write_bytes(b"no")
    source = load_source(tmp_path)
    paths = [Path(row["image"]["path"]).name for row in source.dataset]
    assert paths == ["MR_small.dcm", "SC_rgb_rle_2frame.dcm#frame=0", "SC_rgb_rle_2frame.dcm#frame=1", "broken.dcm"]
    frames = pydicom.dcmread(path_of("SC_rgb_rle_2frame.dcm")).pixel_array
    for frame in (0, 1):
        assert (np.asarray(decode_image(source.dataset[1 + frame]["image"])) == frames[frame]).all()
    with pytest.raises(DECODING_ERRORS, match="does not begin as DICOM files do"):
        decode_image(source.dataset[3]["image"])


def test_files_are_known_by_their_beginning(tmp_path):
    path = tmp_path / "IM000001"
    path.write_bytes(dicom())
    assert (pixels_of(str(path)) == pixels_of(dicom())).all()
    (tmp_path / "1.2.840.78").write_bytes(dicom(STORED // 2))
    (tmp_path / "DICOMDIR.txt").write_bytes(dicom())
    (tmp_path / "LICENSE").write_text("no image", encoding="utf-8")
    rows = load_source(tmp_path).dataset
    assert [Path(row["image"]["path"]).name for row in rows] == ["1.2.840.78", "IM000001"]
    assert (pixels_of(rows[1]["image"]) == pixels_of(dicom())).all()
    with pytest.raises(ValueError, match="`window_size` 2: .* in .* give such files the ending .dcm"):
        load_source(tmp_path, window_size=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "compressed as JPEG-LS Lossless .* no decoder here: `pip install pylibjpeg"),
        ("JPGExtended.dcm", r"cannot decode pixels compressed as JPEG Extended .* Try `pip install pylibjpeg"),
        ("rtplan.dcm", "has no image but RT Plan Storage"),
        ("no_meta.dcm", r"does not begin as DICOM files do.*force=True\)` and `save_as`"),
        ("MR_truncated.dcm", "reshape|pydicom"),
    ],
)
def test_what_cannot_be_read_is_named(name, message):
    with pytest.raises(DECODING_ERRORS, match=message) as caught:
        decode_image(path_of(name))
    assert "\n" not in str(caught.value)


def test_several_frames_without_a_file_are_refused():
    with pytest.raises(DECODING_ERRORS, match="has 2 frames, of which none is named"):
        decode_image(dicom(np.stack([STORED, STORED]), 2))


def test_sizes_are_checked_before_pixels_are_read():
    value = dicom(np.zeros((2, 2), np.uint16), Rows=60000, Columns=60000)
    with warnings.catch_warnings(), pytest.raises(DECODING_ERRORS, match="60000 x 60000 pixels are more than"):
        warnings.simplefilter("ignore")
        open_image(value)
