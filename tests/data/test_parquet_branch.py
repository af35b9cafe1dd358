import pytest

from lejepa_hf.data.parquet_branch import choose_configuration, holds_program, list_parquet_branch

FILES = ["160px/train/0000.parquet", "160px/validation/0000.parquet", "full/train/0000.parquet"]


def test_the_files_of_a_configuration():
    splits = {"train": "160px/train/*.parquet", "validation": "160px/validation/*.parquet"}
    assert choose_configuration(FILES, "me/pets", "160px") == ("160px", splits)
    assert choose_configuration(FILES[:2], "me/pets", None) == ("160px", splits)


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (FILES, None, "several configurations, set `config` (in a recipe `dataset_config`): one of 160px, full."),
        (FILES, "320px", "no `config` '320px': it has 160px, full."),
        ([], None, "no Parquet files of it under `revision: refs/convert/parquet`. Use another copy"),
        (["all/partial-train/0000.parquet"], None, "Parquet files of only a part of it (partial-train)"),
    ],
)
def test_what_is_not_read(files, config, said):
    with pytest.raises(ValueError) as error:
        choose_configuration(files, "me/pets", config)
    assert said in str(error.value) and "'me/pets'" in str(error.value)


def test_without_the_hub():  # conftest.py says offline; tests/test_hub_datasets.py has the Hub
    assert not holds_program("me/pets")
    with pytest.raises(ConnectionError):
        list_parquet_branch("me/pets")
