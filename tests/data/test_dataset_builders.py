import io
import itertools
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from image_files import npy, tiff
from pictures import contents, encoded, message, table
from PIL import Image
from torch.utils.data import DataLoader

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.label_columns import with_labels
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows

pytestmark = pytest.mark.usefixtures("own_cache")


def tar(path: Path, samples: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def samples(numbers, kind: str = "jpg") -> dict[str, bytes]:
    pictures = {f"{i:03}.{kind}": encoded(i, {"jpg": "JPEG"}.get(kind, kind)) for i in numbers}
    return dict(sorted({**pictures, **{f"{i:03}.cls": str(i % 2).encode() for i in numbers}}.items()))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_tars(tmp_path, kind, streaming):
    tar(tmp_path / "0.tar", samples(range(4), kind))
    tar(tmp_path / "1.tar", samples(range(4, 7), kind))
    tar(tmp_path / "2.tar.gz", samples([8], kind))
    for name, count in ((f"{tmp_path}/*.tar", 7), (f"{tmp_path}/{{0..1}}.tar", 7), (f"{tmp_path}/2.tar.gz", 1)):
        source = load_source(name, streaming=streaming)
        assert (source.image_column, source.label_column, source.class_names) == (kind, "cls", None)
        rows = list(source.dataset)
        assert len(rows) == count
        assert all(row["cls"] == int(row["__key__"]) % 2 for row in rows)
        assert all(Image.open(io.BytesIO(row[kind]["bytes"])).size == (8, 6) for row in rows)
    listed = load_source("webdataset", data_files=[f"{tmp_path}/1.tar", f"{tmp_path}/2.*"], streaming=streaming)
    assert sorted(int(row["__key__"]) for row in listed.dataset) == [4, 5, 6, 8]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("png", [[1], [7], [10, 11]], ids=["noticed at once", "noticed late", "another tar"])
def test_tars_of_mixed_formats(tmp_path, png, streaming):
    jpg = [i for i in range(10) if i not in png]
    first = {**samples(jpg), **samples([i for i in png if i < 10], "png")}
    tar(tmp_path / "0.tar", dict(sorted(first.items())))
    tar(tmp_path / "1.tar", samples([i for i in png if i >= 10] or [12], "png"))
    source = load_source(f"{tmp_path}/*.tar", streaming=streaming)
    assert source.image_column == "jpg"
    images = {int(row["__key__"]): Image.open(io.BytesIO(row["jpg"]["bytes"])) for row in source.dataset}
    assert {number for number, image in images.items() if image.format == "PNG"} == {*png, 12} - {12} | (
        {12} if png[0] < 10 else set()
    )
    assert sorted(images) == sorted([*jpg, *png] + ([12] if png[0] < 10 else []))


def test_tars_reach_the_loaders_workers(tmp_path):
    tar(tmp_path / "0.tar", samples(range(4)))
    tar(tmp_path / "1.tar", samples(range(4, 8), "png"))
    stream = load_source(f"{tmp_path}/*.tar", streaming=True).dataset
    arrived = pickle.loads(pickle.dumps(stream))  # as a spawned worker gets it
    assert [row["jpg"]["bytes"] is not None for row in arrived] == [True] * 8
    rows = EndlessRows(stream, 4, seed=0, image_column="jpg", num_readers=2, shuffle_buffer_size=1)
    loaded = itertools.islice(DataLoader(rows, 4, num_workers=2, collate_fn=list), 2)
    assert sorted(row["__key__"] for batch in loaded for row in batch) == [f"{i:03}" for i in range(8)]


def test_tars_with_two_images_a_sample(tmp_path):
    picture, mask = encoded(1), encoded(2)
    name = tar(tmp_path / "a.tar", {"1.jpg": picture, "1.mask.png": mask, "1.txt": b"a cat"})
    assert "2 image columns (jpg, mask.png)" in message(name)
    assert contents(load_source(name, image_column="mask.png")) == [2]


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_whose_samples_are_not_together(tmp_path, streaming):
    both = samples(range(6))
    name = tar(tmp_path / "a.tar", dict(sorted(both.items(), key=lambda member: member[0].endswith("cls"))))
    with pytest.raises(ValueError, match=r"sample '000' are not next to .*a\.tar: pack them sorted by name"):
        list(load_source(name, streaming=streaming).dataset)


@pytest.mark.parametrize("lacking", [["002.jpg"], ["001.cls"], []], ids=["image", "class", "twice"])
def test_the_first_samples_of_a_tar_must_be_alike(tmp_path, lacking):
    members = {name: data for name, data in samples(range(6)).items() if name not in lacking}
    name = tar(tmp_path / "a.tar", members)
    if not lacking:
        with tarfile.open(name, "a") as archive:
            archive.addfile(tarfile.TarInfo("005.jpg"))
    found = "several files of one name" if not lacking else "different kinds of files"
    text = message(name)
    assert f"has samples with {found}" in text and "`tar --sort=name" in text and "WebDataset format" not in text


def test_a_sample_without_an_image_is_named(tmp_path, caplog):
    members = {name: data for name, data in samples(range(8)).items() if name != "006.jpg"}
    source = load_source(tar(tmp_path / "a.tar", members))
    assert [row["jpg"] is None for row in source.dataset] == [False] * 6 + [True, False]
    assert "a.tar: the sample '006' has no image" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_that_cannot_be_read(tmp_path, streaming):
    (tmp_path / "a.tar").write_bytes(b"no archive" * 200)
    assert "a.tar' cannot be read" in message(str(tmp_path / "a.tar"), streaming=streaming)
    assert "no such file" in message(f"{tmp_path}/b*.tar", streaming=streaming)


def test_a_stream_of_parquet_files_says_its_length(parquet):
    source = load_source(parquet, streaming=True)
    assert source.num_images == 7
    assert source.dataset.num_shards == 2


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("broken", [0, 1])
def test_broken_parquet(tmp_path, broken, streaming):
    for number in range(2):
        table([number]).to_parquet(tmp_path / f"{number}.parquet")
    file = tmp_path / f"{broken}.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    text = message(f"{tmp_path}/*.parquet", streaming=streaming)
    assert text.startswith(f"`dataset` '{tmp_path}/*.parquet' cannot be read:")


def test_no_bars_where_stderr_is_a_file(parquet, capsys):
    datasets.enable_progress_bars()
    capsys.readouterr()
    load_source(parquet)
    assert capsys.readouterr().err == ""


def array_file(number: int) -> bytes:
    return npy(np.full((4, 5, 3), number, np.uint8))


def dicom_file(number: int) -> bytes:  # noqa: ARG001
    pydicom = pytest.importorskip("pydicom")
    return Path(pydicom.data.get_testdata_file("MR_small.dcm", download=False)).read_bytes()


def tiff_file(number: int) -> bytes:
    return tiff(np.full((4, 5, 3), 257 * number, np.uint16), planar=True)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("kind", "content"), [("npy", array_file), ("dcm", dicom_file), ("tif", tiff_file)])
def test_arrays_dicom_and_tiff_in_tars(tmp_path, kind, content, streaming):
    if kind == "tif":
        pytest.importorskip("tifffile")
    files = {
        f"{i:03}.{ending}": content(i) if ending == kind else str(i).encode()
        for i in range(7)
        for ending in ("cls", kind)
    }
    source = load_source(tar(tmp_path / "a.tar", files), streaming=streaming)
    assert (source.image_column, source.label_column) == (kind, "cls")
    for row in source.dataset:
        pixels = np.asarray(decode_image(row[kind]))
        assert (
            pixels.shape == (64, 64) if kind == "dcm" else (pixels == row["cls"]).all() and pixels.shape == (4, 5, 3)
        )


@pytest.mark.parametrize("streaming", [False, True])
def test_arrays_beside_images_are_not_images(tmp_path, streaming):
    files = {
        f"{i:03}.{ending}": npy(np.arange(3.0) + i) if ending == "npy" else encoded(i, "JPEG")
        for i in range(7)
        for ending in ("jpg", "npy")
    }
    source = load_source(tar(tmp_path / "a.tar", files), streaming=streaming)
    rows = list(source.dataset)
    assert source.image_column == "jpg" and [row["npy"] for row in rows] == [[i, i + 1, i + 2] for i in range(7)]


def test_arrays_and_photographs_in_one_tar(tmp_path):
    files = {f"{i:03}.{'npy' if i % 2 == 0 else 'png'}": array_file(i) if i % 2 == 0 else encoded(i) for i in range(6)}
    source = load_source(tar(tmp_path / "a.tar", files), streaming=True)
    sizes = [np.asarray(decode_image(row["npy"])).shape for row in source.dataset]
    assert sizes == [(4, 5, 3), (6, 8, 3)] * 3


def test_pickled_arrays_in_tars_stay_broken(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object))
    source = load_source(tar(tmp_path / "a.tar", {"1.npy": buffer.getvalue(), "2.npy": array_file(1)}))
    with pytest.raises(DECODING_ERRORS, match="allow_pickle"):
        decode_image(source.dataset[0]["npy"])


NAMES = ["oak", "fir", " oak\n", "7", "elm", "", "oak"]


@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_classes_in_tars(tmp_path, streaming, caplog):
    files = {f"{i:03}.cls": name.encode() for i, name in enumerate(NAMES)}
    files |= {f"{i:03}.jpg": encoded(i, "JPEG") for i in range(7)}
    name = tar(tmp_path / "a.tar", dict(sorted(files.items())))
    with caplog.at_level("INFO", "lejepa_hf"):
        found = load_source(name, streaming=streaming)
    # A stream would be read to its end for the names, so that its column must be named.
    assert found.label_column == (None if streaming else "cls")
    assert not streaming or "no labels, but texts: `label_column: cls` uses them" in caplog.text
    source = with_labels(load_source(name, streaming=streaming, label_column="cls"))
    assert source.class_names == ["7", "elm", "fir", "oak"]
    found = [None if row["cls"] is None else source.class_names[row["cls"]] for row in source.dataset]
    assert found == [name.strip() or None for name in NAMES]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("place", [2, 6], ids=["noticed at once", "noticed late"])
def test_a_name_among_class_numbers_is_refused(tmp_path, streaming, place):
    files = samples(range(8)) | {f"{place:03}.cls": b"oak"}
    with pytest.raises(
        ValueError, match=rf"00{place}\.cls in .*a\.tar holds 'oak', not an integer .*: write integers into all"
    ):
        list(load_source(tar(tmp_path / "a.tar", files), streaming=streaming).dataset)
