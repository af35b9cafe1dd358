import pytest

from lejepa_hf.data.readers.addresses import Part, file_of_part, split_address, with_part


@pytest.mark.parametrize(
    ("address", "file", "part"),
    [
        ("a/scan.nii.gz#slice=17", "a/scan.nii.gz", Part("slice", (17,))),
        ("slide.tif#window=512,0,256,256", "slide.tif", Part("window", (512, 0, 256, 256))),
        ("s.nii#slice=3,0&window=0,8,4,4", "s.nii", Part("window", (0, 8, 4, 4), Part("slice", (3, 0)))),
        ("a#1/g.h5#group/images=41", "a#1/g.h5", Part("group/images", (41,))),
        ("m.NPZ#a=b=3", "m.NPZ", Part("a=b", (3,))),
        ("m.npz#a=1&b=3", "m.npz", Part("a=1&b", (3,))),
        ("photo.png", "photo.png", None),
        ("photo #3.png", "photo #3.png", None),
        ("photo.png#images=3", "photo.png#images=3", None),
    ],
)
def test_an_address_is_a_file_and_a_part(address, file, part):
    assert split_address(address) == (file, part)
    assert with_part(file, part) == address


def test_a_file_whose_name_looks_like_an_address(tmp_path):
    path = tmp_path / "scan.tif#page=3"
    path.touch()
    assert split_address(str(path)) == (str(path), None)


def test_parts_of_a_file_belong_together_and_rows_of_an_array_do_not():
    assert file_of_part("a.dcm#frame=3&window=0,8,4,4") == "a.dcm"
    assert file_of_part("a.tif#page=3") == file_of_part("a.tif#page=4") == "a.tif"
    assert file_of_part("a.h5#page=3") == "a.h5#page=3"
    assert file_of_part("a.png") == "a.png"
