import pkgutil

import pytest

from lejepa_hf.data.readers import known_readers
from lejepa_hf.data.readers.known_readers import PACKAGES, READERS, ending_of, find_reader
from lejepa_hf.data.readers.reader import Reader


@pytest.mark.parametrize("name", sorted(set(READERS.values())))
def test_every_reader_is_there(name):
    reader = pkgutil.resolve_name(f"{known_readers.__package__}.{name}")()
    assert isinstance(reader, Reader) and reader.format and reader.packages


def test_files_of_folders_have_readers_or_are_opened_by_pil():
    assert set(PACKAGES) - set(READERS) == {".heic", ".heif", ".svs"}
    assert find_reader("photo.png") is None and find_reader(b"\x89PNG") is None


@pytest.mark.parametrize(
    ("name", "ending"), [("a.DCM", ".dcm"), ("a.b.nii.gz", ".nii.gz"), ("a.tar.gz", ".gz"), ("a", "")]
)
def test_endings(name, ending):
    assert ending_of(name) == ending
