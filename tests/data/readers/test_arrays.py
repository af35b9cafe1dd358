import multiprocessing
import os

import numpy as np
import pytest

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.readers.arrays import Hdf5, Npz, Zarr

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
FORMS = ("npz", "h5", "zarr")


@pytest.fixture
def container(tmp_path, own_cache):
    """A file or folder with the arrays of a group, by its form."""

    def write(form: str, **arrays: np.ndarray) -> str:
        path = str(tmp_path / f"images.{form}")
        if form == "npz":
            np.savez_compressed(path, **arrays)
        elif form == "h5":
            h5py = pytest.importorskip("h5py")
            with h5py.File(path, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array, chunks=True, compression="gzip")
        else:
            zarr = pytest.importorskip("zarr")
            group = zarr.open_group(path, mode="w")
            for name, array in arrays.items():
                group.create_array(name, data=array, chunks=(2, *array.shape[1:]))
        return path

    return write


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_rows_are_images(container, form, dtype):
    images = IMAGES.astype(dtype) if dtype != "f4" else IMAGES.astype(dtype) / 255
    path = container(form, images=images)
    for row in (0, 5):
        pixels = np.asarray(decode_image(f"{path}#images={row}"))
        assert (pixels == (IMAGES[row] if dtype != "u2" else 0)).all()  # the upper 8 of 16 bits
    if dtype == "u2":
        assert (np.asarray(decode_image(f"{path}#images=1", 3, [0.0, 255.0])) == IMAGES[1]).all()


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_are_not_there(container, form):
    path = container(form, images=IMAGES)
    for part in ("images=6", "others=0"):
        with pytest.raises(DECODING_ERRORS, match="has no row"):
            decode_image(f"{path}#{part}")
    with pytest.raises(DECODING_ERRORS, match="holds arrays of images: name it as `dataset`|not a regular file"):
        decode_image(path)


def _first_pixels(path: str, queue) -> None:
    queue.put((os.getpid(), np.asarray(decode_image(f"{path}#images=2")).tolist()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_each_process_opens_the_file(container, form, method):
    path = container(form, images=IMAGES)
    decode_image(f"{path}#images=0")  # it is open here already
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_first_pixels, args=(path, queue))
    process.start()
    number, pixels = queue.get(timeout=60)
    process.join()
    assert number != os.getpid() and pixels == IMAGES[2].tolist()


def test_texts_and_groups_of_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/images"], file["names"] = IMAGES, ["a", "b"]
    arrays = Hdf5().arrays(str(tmp_path / "a.h5"))
    assert set(arrays) == {"group/images", "names"} and list(arrays["names"][:]) == ["a", "b"]
    assert (np.asarray(decode_image(f"{tmp_path / 'a.h5'}#group/images=3")) == IMAGES[3]).all()


def test_a_zarr_folder_that_is_one_array(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "a.zarr", data=IMAGES)
    assert Zarr().arrays(str(tmp_path / "a.zarr"))["array"].shape == IMAGES.shape


def test_an_npz_is_decompressed_once(tmp_path, own_cache):
    from datasets import config

    np.savez_compressed(tmp_path / "a.npz", images=IMAGES, others=IMAGES)
    array = Npz().arrays(str(tmp_path / "a.npz"))["images"]
    assert (array[3] == IMAGES[3]).all() and isinstance(array[:2], np.memmap)
    written = list((config.HF_DATASETS_CACHE / "lejepa_hf_arrays").iterdir())
    assert [path.suffix for path in written] == [".npy"]  # and not the array that nobody reads
    before = written[0].stat().st_mtime_ns
    Npz().open(str(tmp_path / "a.npz"))["images"][0]
    assert written[0].stat().st_mtime_ns == before
    np.savez(tmp_path / "a.npz", images=IMAGES[::-1])
    assert (Npz().arrays(str(tmp_path / "a.npz"))["images"][0] == IMAGES[-1]).all()


def test_pickles_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, names=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="The array 'names' holds Python objects, which are pickles"):
        Npz().arrays(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_damaged_files(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DECODING_ERRORS):
        decode_image(f"{path}#images=0")
