import pytest

from lejepa_hf.hub.demo.settings import DemoSettings, is_on_hub


def test_written_and_read(tmp_path):
    settings = DemoSettings("me/encoder", "me/photos", "test", 100, "Mine")
    path = tmp_path / "demo.json"
    path.write_text(settings.to_json(), encoding="utf-8")
    assert DemoSettings.read(path) == settings
    (tmp_path / "me" / "encoder").mkdir(parents=True)
    assert DemoSettings.read(path).encoder == str(tmp_path / "me" / "encoder")


@pytest.mark.parametrize("name", ["digits", "HERE", "a/*.parquet", "b.tar", "hf://datasets/me/photos/*.parquet"])
def test_what_is_no_dataset_of_the_hub(name, tmp_path):
    assert not is_on_hub(str(tmp_path) if name == "HERE" else name)


def test_datasets_of_the_hub():
    assert is_on_hub("me/photos") and is_on_hub("food101")
    assert DemoSettings("me/encoder").open_dataset() is None
    assert DemoSettings("me/encoder", "digits", "test").open_dataset().num_images == 450
