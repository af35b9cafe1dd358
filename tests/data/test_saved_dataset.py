import pytest
from datasets import DatasetDict
from pictures import contents, save, table

from lejepa_hf.data.sources import load_source


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_splits(tmp_path, streaming):
    both = DatasetDict({"train": table([0, 1, 2]), "test": table([3, 4])})
    both.with_format("torch").save_to_disk(tmp_path / "saved")
    source = load_source(tmp_path / "saved", "test", streaming=streaming)
    assert (contents(source), source.num_images) == ([3, 4], 2)
    assert contents(load_source(tmp_path / "saved", "train[1:]", streaming=streaming)) == [1, 2]
    assert contents(load_source(tmp_path / "saved", "test+train[:1]", streaming=streaming)) == [0, 3, 4]
    with pytest.raises(ValueError, match="no split 'val'.*train.*test"):
        load_source(tmp_path / "saved", "val", streaming=streaming)


def test_a_saved_dataset_without_splits_is_train(tmp_path):
    table([0, 1, 2]).save_to_disk(tmp_path / "saved")
    assert contents(load_source(tmp_path / "saved")) == [0, 1, 2]
    with pytest.raises(ValueError, match="no split 'test'"):
        load_source(tmp_path / "saved", "test")
    with pytest.raises(ValueError, match="the split 'train\\[3:\\]' is empty"):
        load_source(tmp_path / "saved", "train[3:]")


def test_a_saved_dataset_that_lost_a_file(tmp_path):
    table([0, 1, 2]).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"saved' cannot be read: .*Save it again with `save_to_disk`"):
        load_source(tmp_path / "saved")


def test_images_beside_some_state_are_a_folder_of_images(tmp_path):
    save(tmp_path / "0.png", 7)
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    assert contents(load_source(tmp_path)) == [7]
