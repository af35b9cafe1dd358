import pytest

from lejepa_hf.system.durable_files import flush


def test_files_and_folders(tmp_path):
    (tmp_path / "file").write_text("content", encoding="utf-8")
    flush(tmp_path / "file")
    flush(tmp_path)
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "missing")
