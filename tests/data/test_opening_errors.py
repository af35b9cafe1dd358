import pytest
from pictures import message

from lejepa_hf.data.opening_errors import explained, nearby, without_secrets

pytestmark = pytest.mark.usefixtures("own_cache")


def test_unreachable_hub():
    assert "the Hub cannot be reached" in message("me/pets")  # conftest.py says offline


@pytest.mark.parametrize("name", ["http://127.0.0.1:9/a.parquet", "http://no-host.invalid/a.tar"])
@pytest.mark.parametrize("streaming", [False, True])
def test_unreachable_server(name, streaming):
    assert f"'{name}' was not found, or its server does not answer" in message(name, streaming=streaming)


def test_secrets_of_an_address_are_not_shown():
    text = message("http://me:pa55@127.0.0.1:9/a.parquet?signature=abc")
    assert "pa55" not in text and "abc" not in text and "127.0.0.1:9/a.parquet" in text


def test_addresses_that_say_too_little():
    assert "does not name its file type" in message("http://127.0.0.1:9/images")
    assert "does not list its files" in message("http://127.0.0.1:9/*.parquet")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host/a.tar?signature=abc", "https://...@host/a.tar?..."),
        ("see 's3://bucket/a.tar?x=1' and b?", "see 's3://bucket/a.tar?...' and b?"),
        ("data/photos", "data/photos"),
    ],
)
def test_secrets_are_cut_from_a_text(text, shown):
    assert without_secrets(text) == shown


def test_an_error_of_another_cause_is_not_explained():
    assert explained(KeyError("a fault of ours"), "me/pets", "train", "me/pets", "None", on_hub=True) is None


def test_what_is_beside_a_missing_path(tmp_path):
    (tmp_path / "photos").mkdir()
    assert nearby(str(tmp_path / "photo")) == f"{str(tmp_path)!r} holds photos."
    assert "does not exist either" in nearby(str(tmp_path / "no" / "folder"))
