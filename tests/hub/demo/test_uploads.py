import os

import pytest

from lejepa_hf.hub.demo import uploads
from lejepa_hf.hub.demo.uploads import Uploads

REFUSED = "This is not a file that was uploaded here"


def stored(folder, letter: str, content: bytes = b"1", name: str = "mine.png") -> str:
    path = os.path.join(os.path.realpath(folder), letter * 64, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def test_an_upload_is_read(tmp_path):
    path = stored(tmp_path, "a", b"content")
    mine = Uploads(tmp_path)
    assert mine.path_of({"path": path, "orig_name": "mine.png"}) == path
    assert mine.read(path) == b"content"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/dev/zero", "/no/such", "mine.png", "", ".", "FOLDER", "FOLDER/x.png", "FOLDER/CHECKSUM",
        "FOLDER/CHECKSUM/", "FOLDER/CHECKSUM/.", "FOLDER/CHECKSUM/..", "FOLDER/CHECKSUM/../../x.png",
        "FOLDER/CHECKSUM/mine.png/../../x.png", "FOLDER/../CHECKSUM/mine.png", "//FOLDER/CHECKSUM/mine.png",
        "FOLDER/CHECKSUM/a\0b", "http://127.0.0.1/x.png", "file:///etc/passwd", 1, None, True, ["a"], {"path": "a"},
    ],
)  # fmt: skip
def test_any_other_path_is_refused_in_the_same_words(tmp_path, path):
    (tmp_path / "x.png").write_bytes(b"beside")
    stored(tmp_path, "a")
    if isinstance(path, str):
        path = path.replace("FOLDER", os.path.realpath(tmp_path)).replace("CHECKSUM", "a" * 64)
    mine = Uploads(tmp_path)
    for value in (path, [path], {"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
        with pytest.raises(ValueError, match=REFUSED):
            mine.path_of(value)
    if isinstance(path, str):
        with pytest.raises(ValueError, match=REFUSED):
            mine.read(path)


def test_what_is_not_a_regular_file_is_refused(tmp_path, monkeypatch):
    mine, path = Uploads(tmp_path), stored(tmp_path, "a")
    beside = os.path.dirname(path)
    os.mkdir(os.path.join(beside, "folder"))
    os.symlink("/etc/passwd", os.path.join(beside, "link"))
    os.symlink("/dev/zero", os.path.join(beside, "endless"))
    os.mkfifo(os.path.join(beside, "pipe"))  # opening it would wait for a writer
    for name in ("folder", "link", "endless", "pipe", "missing", "x" * 300):
        with pytest.raises(ValueError, match=REFUSED):
            mine.read(os.path.join(beside, name))
    monkeypatch.setattr(uploads, "LARGEST_UPLOAD", 1)
    assert mine.read(path) == b"1"
    with pytest.raises(ValueError, match=REFUSED):
        mine.read(stored(tmp_path, "b", b"12"))


def test_the_oldest_files_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "_MOST_FILES", 3)
    kept = stored(tmp_path, "0")
    mine = Uploads(tmp_path)
    mine.keep()
    paths = [stored(tmp_path, letter) for letter in "abcde"]
    for age, path in enumerate([kept, *paths]):
        os.utime(path, (1000 + age, 1000 + age))
    mine.tidy()
    assert [os.path.exists(path) for path in [kept, *paths]] == [True, False, False, True, True, True]
    assert not os.path.exists(os.path.dirname(paths[0]))
    monkeypatch.setattr(uploads, "_MOST_BYTES", 1)
    mine.tidy()
    assert [os.path.exists(path) for path in [kept, *paths[2:]]] == [True, False, False, True]
