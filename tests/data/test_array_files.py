import logging
from itertools import islice

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.shared_images import shared_images
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8), np.arange(12) % 3
NAMES = np.array([f"galaxy {number}" for number in range(12)])

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def galaxies(tmp_path):
    """As Galaxy10 has them: images, classes and other columns in one HDF5 file."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "galaxies.h5", "w") as file:
        file["images"], file["ans"], file["ra"], file["names"] = IMAGES, LABELS, LABELS / 7, NAMES.astype("S")
    return str(tmp_path / "galaxies.h5")


@pytest.fixture
def medical(tmp_path):
    """As MedMNIST has them: splits by the beginnings of names, labels `(N, 1)`."""
    parts = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 12)}
    arrays = {f"{name}_images": IMAGES[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": LABELS[part, None] for name, part in parts.items()}
    np.savez_compressed(tmp_path / "medical.npz", **arrays)
    return str(tmp_path / "medical.npz")


def assert_rows(source, first: int, number: int):
    rows = list(source.dataset)
    assert len(rows) == number == source.num_images
    for place, row in enumerate(rows):
        assert (np.asarray(decode_image(row[source.image_column])) == IMAGES[first + place]).all()
        assert row[source.label_column] == LABELS[first + place]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_hdf5_file(galaxies, streaming):
    source = load_source(galaxies, streaming=streaming)
    assert (source.image_column, source.label_column, source.is_stream) == ("images", "ans", streaming)
    assert_rows(source, 0, 12)
    assert next(iter(source.dataset))["names"] == "galaxy 0"


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_by_the_beginnings_of_names(medical, streaming):
    for split, first, number in (("train", 0, 6), ("validation", 6, 3), ("test", 9, 3), ("validation+test", 6, 6)):
        assert_rows(load_source(medical, split, streaming=streaming), first, number)
    assert_rows(load_source(medical, "train[2:4]"), 2, 2)
    with pytest.raises(ValueError, match=r"no split 'val2'.*\['train', 'validation', 'test'\]"):
        load_source(medical, "val2", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_images_reach_the_workers_of_a_loader(galaxies, streaming):
    source = load_source(galaxies, streaming=streaming)
    rows = EndlessRows(source.dataset, 4, seed=0, image_column="images", num_readers=2)
    views = MultiCropTransform(global_crop_size=8, local_crop_size=4, num_local_views=1, blur_probability=0)
    loader = DataLoader(rows, 4, num_workers=rows.num_workers(2), collate_fn=MultiCropCollator(views, "images", "ans"))
    batches = list(islice(loader, 3))
    labels = [label for batch in batches for label in batch["probe_labels"].tolist()]
    assert not any(batch.get("broken") for batch in batches)
    assert streaming or sorted(labels) == sorted(LABELS.tolist())  # one pass; each reader of a stream begins anew


def test_which_array_has_the_images(tmp_path):
    path = str(tmp_path / "several.npz")
    np.savez(path, images=IMAGES, masks=IMAGES[..., 0], labels=LABELS)
    with pytest.raises(ValueError, match=r"2 arrays of images: set `image_column`.*masks uint8 \(12, 16, 16\)"):
        load_source(path)
    source = load_source(path, image_column="masks")
    assert (np.asarray(decode_image(source.dataset[3]["masks"])) == IMAGES[3, :, :, 0]).all()
    with pytest.raises(ValueError, match="`image_column` 'labels' is not an array of images"):
        load_source(path, image_column="labels")
    with pytest.raises(ValueError, match="`label_column` 'no' is not in `dataset`"):
        load_source(path, image_column="masks", label_column="no")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS}, r"has no array of images: images are arrays .* it holds labels int64 \(12,\)"),
        ({"images": IMAGES[:0]}, "has no array of images"),
        ({"images": np.array([None])}, "'images' holds Python objects"),
    ],
)
def test_containers_without_images(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_source(tmp_path / "a.npz")


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(ValueError, match="galaxies.h5': no such file"):
        load_source(tmp_path / "galaxies.h5")
    (tmp_path / "damaged.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged.npz' cannot be read"):
        load_source(tmp_path / "damaged.npz")


def test_settings_of_other_sources_are_refused(galaxies):
    for settings in ({"config": "x"}, {"window_size": 8}, {"slice_axis": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}` .* has no meaning for `dataset`"):
            load_source(galaxies, **settings)


def test_images_in_two_splits_are_found_by_their_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=IMAGES[:8], test_images=IMAGES[6:])
    train, test = (load_source(tmp_path / "a.npz", split) for split in ("train", "test"))
    shared = shared_images([(train.dataset, "images")], test.dataset, "images")
    assert (shared.number, shared.compared) == (2, 6)


def test_the_log_says_what_a_container_holds(galaxies, caplog):
    from lejepa_hf.data.found_images import log_found_images

    with caplog.at_level(logging.INFO, "lejepa_hf"):
        log_found_images(load_source(galaxies))
    assert (
        "12 images; 12 were read: 12 HDF5 files; 16 x 16 pixels; channels 3, values uint8 from 0 to 255" in caplog.text
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_several_files_by_a_glob(tmp_path, streaming):
    for name, rows in (("a", slice(0, 5)), ("b", slice(5, 7)), ("c", slice(7, 12))):
        np.savez(tmp_path / f"{name}.npz", images=IMAGES[rows], labels=LABELS[rows])
    source = load_source(f"{tmp_path}/*.npz", streaming=streaming, label_column="labels")
    assert_rows(source, 0, 12)
    assert_rows(load_source(f"{tmp_path}/*.npz", "train[4:8]", label_column="labels"), 4, 4)
    np.savez(tmp_path / "d.npz", images=IMAGES)
    with pytest.raises(ValueError, match=r"the columns of '.*d\.npz' are images: Image, not images: .*labels: int64"):
        load_source(f"{tmp_path}/*.npz", streaming=streaming)


@pytest.mark.parametrize("shape", ["group", "array"])
def test_a_zarr_folder_with_a_slash_and_a_glob_of_them(tmp_path, shape):
    zarr = pytest.importorskip("zarr")
    for name in ("a.zarr", "b.zarr"):
        path = tmp_path / name if shape == "array" else tmp_path / name / "images"
        zarr.save_array(str(path), IMAGES)
        if shape == "group":
            zarr.open_group(str(tmp_path / name), mode="a")
    for name in ("a.zarr", "a.zarr/", "a.zarr//"):
        source = load_source(f"{tmp_path}/{name}")
        assert (source.num_images, source.name) == (12, f"{tmp_path}/a.zarr")
        assert (np.asarray(decode_image(source.dataset[3][source.image_column])) == IMAGES[3]).all()
    assert load_source(f"{tmp_path}/*.zarr/").num_images == 24
    with pytest.raises(ValueError, match="c.zarr': no such file"):
        load_source(f"{tmp_path}/c.zarr/")
