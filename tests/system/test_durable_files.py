import errno
import os

import pytest

from lejepa_hf.system.durable_files import complete_file, complete_folder, flush, publish_folder, write_text


def test_flushing_files_and_folders(tmp_path):
    (tmp_path / "file").write_text("content")
    flush(tmp_path / "file")
    flush(tmp_path)
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "missing")


def test_a_folder_that_cannot_be_opened_is_no_obstacle(tmp_path, monkeypatch):
    """As on Windows, which also flushes no file that was opened for reading alone."""
    posix_open, posix_fsync, read_only = os.open, os.fsync, set()

    def windows_open(path, flags, *rest, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        handle = posix_open(path, flags, *rest, **named)
        if not flags & (os.O_RDWR | os.O_WRONLY):
            read_only.add(handle)
        return handle

    def windows_fsync(handle):
        if handle in read_only:
            raise OSError(9, "Bad file descriptor")
        posix_fsync(handle)

    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    write_text(tmp_path / "new" / "file.json", "{}\n")
    (tmp_path / "written").mkdir()
    (tmp_path / "written" / "weights").write_bytes(b"1")
    publish_folder(tmp_path / "written", tmp_path / "checkpoint-1")
    for content in (b"1", b"2"):
        with complete_folder(tmp_path / "encoder", stale=[]) as aside:
            (aside / "weights").write_bytes(content)
    assert (tmp_path / "new" / "file.json").read_bytes() == b"{}\n"
    assert (tmp_path / "checkpoint-1" / "weights").read_bytes() == b"1"
    assert (tmp_path / "encoder" / "weights").read_bytes() == b"2"


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_file_leaves_the_earlier_one(tmp_path):
    (tmp_path / "file").write_text("before")
    with pytest.raises(KeyboardInterrupt), complete_file(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "before"}
    write_text(tmp_path / "file", "after, in UTF-8: ±")
    assert (tmp_path / "file").read_bytes() == "after, in UTF-8: ±".encode()


def test_a_folder_keeps_what_is_not_replaced(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in ("weights", "weights.old", "notes"):
        (folder / name).write_text("before")
    with complete_folder(folder, stale=["weights*"]) as aside:
        (aside / "weights").write_text("after")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"weights": "after", "notes": "before"}
    message = "Files could not be written into .*encoder"
    with pytest.raises(OSError, match=message), complete_folder(folder, stale=["weights*"]) as aside:
        (aside / "weights").write_text("half")
        raise OSError("disk full")
    assert (folder / "weights").read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/file'"), complete_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
