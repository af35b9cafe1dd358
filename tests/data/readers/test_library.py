import errno

import pytest

from lejepa_hf.data.readers.library import is_installed, library_for


def test_a_missing_library_is_named_with_the_way_out():
    message = "no_such reads this XYZ file: `pip install no_such other`, or save"
    with pytest.raises(ValueError, match=message), library_for("XYZ file", "no_such other"):
        import no_such  # noqa: F401
    message = "PIL misreads this XYZ file; no_such reads it"
    with pytest.raises(ValueError, match=message), library_for("XYZ file", "no_such", misread=True):
        import no_such  # noqa: F401


def test_errors_of_damaged_files_are_of_one_line():
    message = "numpy cannot read this XYZ file: RuntimeError: a b"
    with pytest.raises(ValueError, match=message), library_for("XYZ file", "numpy"):
        raise RuntimeError("a\n b")
    with pytest.raises(ValueError, match="cannot read"), library_for("XYZ file", "numpy"):
        raise OSError("damaged")


def test_the_file_system_is_asked_again():
    with pytest.raises(OSError, match="stale"), library_for("XYZ file", "numpy"):
        raise OSError(errno.ESTALE, "stale")


def test_installed_packages():
    assert is_installed("numpy") and not is_installed("no-such numpy")
