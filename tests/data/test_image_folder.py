import logging
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from pictures import contents, encoded, message, save
from PIL import Image

from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.readers.known_readers import PACKAGES
from lejepa_hf.data.row_groups import groups_of, row_names
from lejepa_hf.data.sources import load_source


@pytest.fixture
def labelled(tmp_path):
    for i in range(6):
        save(tmp_path / "pets" / "train" / ("cat", "dog")[i % 2] / f"{i}.png", i)
        save(tmp_path / "pets" / "test" / ("cat", "dog")[i % 2] / f"{i}.png", 10 + i)
    return str(tmp_path / "pets")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 10)])
def test_labelled_folder(labelled, split, first, streaming):
    source = load_source(labelled, split=split, streaming=streaming)
    assert (source.image_column, source.label_column, source.class_names) == ("image", "label", ["cat", "dog"])
    assert hasattr(source.dataset, "__len__") != streaming
    assert contents(source) == list(range(first, first + 6))
    for row in source.dataset:
        assert f"/{source.class_names[row['label']]}/" in row["image"]["path"]


def test_classes_without_splits_are_train(tmp_path):
    for i in range(4):
        save(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", i)
    source = load_source(str(tmp_path))
    assert contents(source) == [0, 1, 2, 3]
    assert source.class_names == ["cat", "dog"]
    assert contents(load_source(str(tmp_path), split="train[:2]")) == [0, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_flat_folder_has_no_labels(tmp_path, streaming):
    for i in range(5):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "notes.txt").write_text("harmless", encoding="utf-8")
    source = load_source(str(tmp_path), streaming=streaming)
    assert (source.image_column, source.label_column, source.class_names) == ("image", None, None)
    assert contents(source) == list(range(5))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "images" / "a.png", 7)
    assert contents(load_source("~/images")) == [7]
    assert "holds images" in message("~/imagse")


def test_missing_folder_names_its_neighbours(tmp_path):
    (tmp_path / "pictures").mkdir()
    text = message(str(tmp_path / "picturs"))
    assert "no such folder" in text and "pictures" in text
    assert "does not exist either" in message(str(tmp_path / "a" / "b"))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], "found nothing."),
        (["a.txt", "b.txt", "deep/c.csv", "README"], "found 1 .csv, 2 .txt, 1 no ending."),
    ],
)
def test_folder_without_images(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image", encoding="utf-8")
    assert message(str(tmp_path)).endswith(found.format(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_split_of_a_folder_lists_the_splits(labelled, streaming):
    text = message(labelled, split="dev", streaming=streaming)
    assert "'dev'" in text and "train" in text and "test" in text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("files", "classes"),
    [
        # Names in which `datasets` sees a split, and leaves all others out.
        (["a.png", "train_station.png", "test (2).png", "val/deep/eval-1.png"], None),
        (["dog/1.png", "train/2.png", "cat/3.png"], ["cat", "dog", "train"]),
        (["a/b/c/1.png", "x.png", "d/2.png"], None),
        (["2024/cat/1.png", "2025/dog/2.png"], ["cat", "dog"]),
        (["only/1.png", "only/2.png"], None),
    ],
)
def test_every_image_below_is_found(tmp_path, files, classes, streaming):
    for number, name in enumerate(files):
        save(tmp_path / name, number)
    source = load_source(str(tmp_path), streaming=streaming)
    assert contents(source) == list(range(len(files)))
    assert source.class_names == classes
    assert source.num_images == len(files)


def test_mixed_formats(tmp_path):
    for name in ("a.jpg", "b.JPEG", "c.webp", "d.bmp", "e.tif", "f.gif", "g.PNG", "h.avif"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    assert load_source(str(tmp_path)).num_images == 8


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_no_image_does_not_stop_the_listing(tmp_path, streaming):
    save(tmp_path / "good.png", 1)
    for name in ("broken.jpg", "metadata.csv", "notes.txt", "some.zip", "task.toml", "film.mpg", "no ending"):
        (tmp_path / name).write_bytes(b"no image")
    save(tmp_path / ".hidden.png", 2)
    save(tmp_path / ".thumbnails" / "small.png", 3)
    source = load_source(str(tmp_path), streaming=streaming)
    paths = [row["image"]["path"] for row in source.dataset]
    assert paths == [str(tmp_path / "broken.jpg"), str(tmp_path / "good.png")]  # broken is found out when it is read
    assert [row["image"]["bytes"] for row in source.dataset] == [None, None]


def test_runs_among_the_images_are_left_out(labelled, caplog):
    run = os.path.join(labelled, "train", "runs", "first")
    save(Path(run) / "pictures" / "losses.png", 7)
    for file in ("run.json", "recipe.yaml"):
        Path(run, file).touch()
    source = load_source(labelled)
    assert contents(source) == list(range(6)) and source.class_names == ["cat", "dog"]
    assert load_source(labelled, split="test").num_images == 6
    assert caplog.text.count(f"1 run folder ({os.path.join('train', 'runs', 'first')!r})") == 1
    assert contents(load_source(run)) == [7], "named by itself it is a folder like others"


@pytest.mark.parametrize("folder", ["with space", "brackets[1]", "star*"])
def test_odd_names(tmp_path, folder):
    save(tmp_path / folder / "a [2].png", 5)
    assert contents(load_source(str(tmp_path / folder))) == [5]
    assert contents(load_source(f"{tmp_path / folder}/")) == [5]


def test_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    save(tmp_path / "images" / "a.png", 5)
    monkeypatch.chdir(tmp_path)
    source = load_source("images")
    monkeypatch.chdir("/")
    assert contents(source) == [5]


def test_links_are_followed_but_not_for_ever(tmp_path):
    save(tmp_path / "elsewhere" / "a.png", 4)
    save(tmp_path / "images" / "cat" / "b.png", 6)
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "cat" / "up").symlink_to(tmp_path / "images")
    source = load_source(str(tmp_path / "images"))
    assert (contents(source), source.class_names) == ([4, 6], ["cat", "dog"])


def test_links_in_a_circle_end(tmp_path, caplog):
    for number, name in enumerate(("a/1.png", "b/2.png", "c/3.png")):
        save(tmp_path / "images" / name, number)
    for folder, target in zip("abc", "bca", strict=True):  # a -> b -> c -> a, and each of them to the other one
        for place in ("next", "again"):
            (tmp_path / "images" / folder / place).symlink_to(tmp_path / "images" / target)
    source = load_source(str(tmp_path / "images"))
    assert (contents(source), source.class_names) == ([0, 1, 2], ["a", "b", "c"])
    assert "6 entries are left out: 6 listed already by another path ('a/again')" in caplog.text


def test_a_circle_outside_the_folder_ends(tmp_path):
    save(tmp_path / "images" / "cat" / "1.png", 1)
    save(tmp_path / "pool" / "deep" / "2.png", 2)
    (tmp_path / "images" / "pool").symlink_to(tmp_path / "pool")
    (tmp_path / "pool" / "deep" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "pool" / "root").symlink_to("/")
    assert contents(load_source(str(tmp_path / "images"))) == [1, 2]


def test_several_ways_to_one_image(tmp_path, caplog):
    save(tmp_path / "images" / "cat" / "real.png", 1)
    (tmp_path / "images" / "another").mkdir()
    (tmp_path / "images" / "another" / "link.png").symlink_to(tmp_path / "images" / "cat" / "real.png")
    (tmp_path / "images" / "all").symlink_to(tmp_path / "images" / "cat")
    os.link(tmp_path / "images" / "cat" / "real.png", tmp_path / "images" / "cat" / "twin.png")
    (row,) = load_source(str(tmp_path / "images")).dataset
    assert row["image"]["path"] == str(tmp_path / "images" / "cat" / "real.png")
    assert "3 listed already by another path ('" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_only_regular_files_are_images(tmp_path, streaming, caplog):
    save(tmp_path / "good.png", 1)
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "noise.npy").symlink_to("/dev/urandom")
    (tmp_path / "nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / ".#editor").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("harmless", encoding="utf-8")
    assert contents(load_source(str(tmp_path), streaming=streaming)) == [1]
    found = (
        "6 entries are left out: 1 .txt, 3 not a regular file ('noise.npy'), 2 with a missing target ('itself.png')"
    )
    assert found.replace("noise.npy", "pipe") in caplog.text


@pytest.mark.parametrize("endings", [[".txt"], [".txt", ".mp4", ".mp4"]])
def test_what_is_left_out_is_counted_by_ending(tmp_path, caplog, endings):
    save(tmp_path / "good.png", 1)
    (tmp_path / "metadata.csv").write_text("file_name,site\ngood.png,a\n", encoding="utf-8")
    for number, ending in enumerate(endings):
        (tmp_path / f"{number}{ending}").write_text("no image", encoding="utf-8")
    caplog.set_level("INFO", "lejepa_hf")
    load_source(str(tmp_path))
    load_source(str(tmp_path))
    found = "1 entry is left out: 1 .txt." if len(endings) == 1 else "3 entries are left out: 2 .mp4, 1 .txt."
    (record,) = [record for record in caplog.records if "left out" in record.getMessage()]
    assert record.getMessage() == f"{tmp_path}: {found}" and record.levelname == "INFO"


def test_a_folder_of_pipes_has_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert message(str(tmp_path)).endswith("found 1 not a regular file.")


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_that_are_not_utf8_cost_no_other_image(tmp_path, caplog):
    save(tmp_path / "café" / "bär.png", 1)
    for name in (b"caf\xe9/a.png", b"caf\xe9/b.png", b"caf\xc3\xa9/\xff.png", b"caf\xc3\xa9/c.\xff"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(encoded(2))
    source = load_source(str(tmp_path))
    assert (contents(source), source.num_images) == ([1], 1)
    assert "4 entries are left out: 1 .\\udcff, 3 with a name that is not UTF-8 ('caf" in caplog.text
    with pytest.raises(ValueError, match="the path of the folder is not UTF-8; rename it"):
        load_source(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9")))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_unreadable_subfolder_is_an_error(tmp_path):
    save(tmp_path / "a.png", 4)
    (tmp_path / "secret").mkdir(mode=0)
    assert "cannot be listed" in message(str(tmp_path))


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "dev"])
def test_names_of_split_folders(tmp_path, folder):
    save(tmp_path / "train" / "a.png", 1)
    save(tmp_path / folder / "b.png", 2)
    train, validation = load_source(str(tmp_path)), load_source(str(tmp_path), split="validation")
    assert (contents(train), contents(validation)) == ([1], [2])
    assert train.class_names is None


def test_images_beside_splits_are_left_out_with_a_warning(tmp_path, caplog):
    for number, name in enumerate(("train/a.png", "test/b.png", "extra/c.png", "d.png")):
        save(tmp_path / name, number)
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        assert contents(load_source(str(tmp_path))) == [0]
    assert "2 images beside the splits train, test are left out (extra)" in caplog.text


def test_slices(labelled):
    assert contents(load_source(labelled, split="train[2:4]")) == [1, 4]  # 0, 2, 4 are cats, 1, 3, 5 dogs
    assert contents(load_source(labelled, split="train[:1]+test[:1]", streaming=True)) == [0, 10]
    assert load_source(labelled, split="train[:2]").class_names == ["cat", "dog"]
    assert "is empty" in message(labelled, split="train[:0]")


def test_a_large_folder_streams_in_64_shards(tmp_path):
    for number in range(70):
        save(tmp_path / f"{number:02}.png", number)
    stream = load_source(str(tmp_path), streaming=True)
    assert (stream.dataset.num_shards, stream.num_images) == (64, 70)
    assert contents(stream) == list(range(70))


@pytest.mark.parametrize("settings", [{"config": "x"}, {"revision": "x"}, {"data_files": "*.png"}])
def test_what_a_folder_cannot_have_is_refused(labelled, settings):
    (field,) = settings
    assert message(labelled, **settings).startswith(f"`{field}`")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_shards_has_the_splits_of_their_names(tmp_path, streaming):
    for name, numbers in {"train-0": (1, 2, 3), "train-1": (4, 5), "validation-0": (9,)}.items():
        images = [{"bytes": bytes([number]), "path": None} for number in numbers]
        features = datasets.Features({"image": datasets.Image(decode=False)})
        datasets.Dataset.from_dict({"image": images}, features).to_parquet(tmp_path / f"{name}.parquet")
    for split, expected in (("train", [1, 2, 3, 4, 5]), ("validation", [9])):
        source = load_source(str(tmp_path), split, streaming=streaming)
        assert sorted(row["image"]["bytes"][0] for row in source.dataset) == expected
        assert source.num_images == len(expected)
    with pytest.raises(ValueError, match="test"):
        load_source(str(tmp_path), "test", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_arrays_and_tiffs(tmp_path, streaming):
    tile = np.arange(120, dtype=np.uint16).reshape(6, 5, 4)
    np.save(tmp_path / "a.npy", tile)
    pages = [Image.fromarray(tile[:, :, channel]) for channel in range(4)]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "c.TIFF", save_all=True, append_images=pages[1:])
    source = load_source(str(tmp_path), streaming=streaming)
    assert source.num_images == 3
    for row in source.dataset:
        np.testing.assert_array_equal(decode_image(row["image"], 4, [0.0, 255.0]), tile)


def test_files_without_their_reader_are_named_with_what_to_install(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(PACKAGES, ".dcm", "no-such-reader")
    monkeypatch.setitem(PACKAGES, ".heic", "no-such-opener")
    monkeypatch.delitem(Image.EXTENSION, ".heic", raising=False)  # which a test before this one may have registered
    save(tmp_path / "a" / "0.png", 0)
    for name in ("a/1.dcm", "a/2.DCM", "a/3.heic"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        assert len(load_source(tmp_path).dataset) == 1
    assert "2 .dcm with `pip install no-such-reader`; 1 .heic with `pip install no-such-opener`." in caplog.text
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(
        ValueError, match="holds no images: found .* can be read: 2 .dcm with `pip install no-such-reader`"
    ):
        load_source(tmp_path)


def test_containers_in_a_folder_are_named(tmp_path):
    (tmp_path / "a.h5").touch()
    (tmp_path / "b.zarr" / "c").mkdir(parents=True)
    with pytest.raises(
        ValueError, match="found 1 .h5, 1 .zarr. A container of arrays is .* name one of the .h5 files"
    ):
        load_source(tmp_path)


def test_settings_for_parts_of_files_need_such_files(tmp_path):
    save(tmp_path / "0.png", 0)
    with pytest.raises(ValueError, match="`slice_axis` 1 is for files that end in .nii or .nii.gz"):
        load_source(tmp_path, slice_axis=1)
    with pytest.raises(ValueError, match="`window_size` 8 has no meaning for `dataset` 'digits'"):
        load_source("digits", window_size=8)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_glob_is_a_folder_with_fewer_files(tmp_path, streaming, monkeypatch):
    for number, name in enumerate(("cat/a1.png", "cat/b2.png", "dog/a3.png", "dog/c.jpg", "notes/a4.txt")):
        save(tmp_path / "pets" / name, number)
    (tmp_path / "pets" / "metadata.csv").write_text("file_name,age\ncat/a1.png,3\ndog/a3.png,9\n", encoding="utf-8")
    source = load_source(f"{tmp_path}/pets/*/a*", streaming=streaming)
    rows = list(source.dataset)
    assert contents(source) == [0, 2] and source.class_names == ["cat", "dog"]
    assert [(row["label"], row["age"]) for row in rows] == [(0, 3), (1, 9)]
    assert contents(load_source(f"{tmp_path}/pets/cat/?{{1..2}}.png", streaming=streaming)) == [0, 1]
    assert f"{tmp_path}/pets/*.gif': no such file" in message(f"{tmp_path}/pets/*.gif")
    assert "holds no images: found 1 .txt" in message(f"{tmp_path}/pets/notes/*")
    monkeypatch.chdir(tmp_path)
    assert row_names(load_source("pets/*/*.png")) == ["cat/a1.png", "cat/b2.png", "dog/a3.png"]
    assert groups_of(load_source("pets/*/*.png"), "1") == ["cat", "cat", "dog"]


def test_folders_of_splits_in_a_glob(labelled):
    source = load_source(f"{labelled}/*/dog/*.png", "test")
    assert contents(source) == [11, 13, 15]


def test_a_glob_of_files_of_several_images_and_one_of_them(tmp_path):
    for name in ("a.tif", "b.tif"):
        pages = [Image.new("L", (8, 6), value) for value in (1, 2, 3)]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    assert load_source(f"{tmp_path}/*.tif", pages="images").num_images == 6
    source = load_source(f"{tmp_path}/b.tif", pages="images")
    assert [np.asarray(decode_image(row["image"], 1))[0, 0] for row in source.dataset] == [1, 2, 3]
    assert row_names(source) == ["b.tif"] * 3
    assert "`slice_axis` 0 is for files that end in .nii" in message(f"{tmp_path}/*.tif", slice_axis=0)


def test_a_folder_that_is_called_like_a_file_is_a_folder(tmp_path):
    save(tmp_path / "photos.tar" / "0.png", 7)
    for name in ("photos.tar", "photos.tar/"):
        assert contents(load_source(f"{tmp_path}/{name}")) == [7]
