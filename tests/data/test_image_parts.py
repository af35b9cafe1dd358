import pytest

from lejepa_hf.data.image_parts import refuse_cut, with_parts
from lejepa_hf.data.readers.reader import Cut


@pytest.mark.parametrize(
    ("cut", "endings", "message"),
    [
        (Cut(slice_axis=0), {".png"}, "`slice_axis` 0 is for files that end in .nii or .nii.gz, and it has none"),
        (Cut(pages="images"), {".png"}, "`pages` 'images' is for files that end in .tif or .tiff"),
        (Cut(window_size=64), (), "`window_size` 64 is for the files of a folder"),
    ],
)
def test_settings_without_files_for_them_are_refused(cut, endings, message):
    with pytest.raises(ValueError, match=message):
        refuse_cut(cut, "it", endings)


def test_settings_that_are_used():
    refuse_cut(Cut(), "it", ())
    refuse_cut(Cut(slice_axis=0), "it", {".nii.gz", ".png"})
    refuse_cut(Cut(window_size=64), "it", {".png"})


def test_nothing_is_opened_without_need():
    assert with_parts("/no/such/folder", ["a.png", "b.tif", "c.npy"], Cut()) == ["a.png", "b.tif", "c.npy"]


def test_a_file_that_cannot_be_opened_is_one_image(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "a.dcm").write_bytes(b"no")
    assert with_parts(str(tmp_path), ["a.dcm", "missing.dcm"], Cut()) == ["a.dcm", "missing.dcm"]
