import pytest
from huggingface_hub import constants

from lejepa_hf.hub.training_data import public_name, training_data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What `datasets` leaves behind when it opens a dataset of the Hub: its page."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def put(name: str, page: str, revision: str = "main"):
        folder = tmp_path / f"datasets--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / revision).write_text("0123abc")
        (folder / "snapshots" / "0123abc").mkdir(parents=True)
        (folder / "snapshots" / "0123abc" / "README.md").write_text(page)

    return put


@pytest.mark.parametrize(
    ("page", "licence"),
    [
        ("license: cc-by-4.0", "Licence, by its page on the Hub: cc-by-4.0."),
        ("license: [mit, apache-2.0]", "Licence, by its page on the Hub: mit, apache-2.0."),
        (
            "license: other\nlicense_name: of-imagenet\nlicense_link: https://image-net.org/terms",
            "Licence, by its page on the Hub: of-imagenet (https://image-net.org/terms).",
        ),
        ("license: other\nlicense_link: LICENSE", "Licence, by its page on the Hub: other."),
        ("task_categories: [image-classification]", "Its page on the Hub states no licence."),
        ("license: [", "Its licence is not stated here: see its page."),
    ],
)
def test_licence_by_the_page_of_the_dataset(cache, page, licence):
    cache("user/photos", f"---\n{page}\n---\n# Photos\n")
    (source,) = training_data({"dataset": "user/photos", "train_split": "train"})
    assert source.licence == licence
    assert source.on_hub == "user/photos" and source.weight is None


def test_the_page_is_that_of_the_revision(cache):
    cache("user/photos", "---\nlicense: mit\n---\n", revision="v2")
    recipes = [{"dataset": "user/photos", "dataset_revision": revision} for revision in ("v2", None)]
    licences = [training_data(recipe)[0].licence for recipe in recipes]
    assert licences == ["Licence, by its page on the Hub: mit.", "Its licence is not stated here: see its page."]


@pytest.mark.parametrize("name", ["/data/photos", "photos/*.parquet", "parquet", "s3://bucket/a.tar"])
def test_local_images(cache, name):
    (source,) = training_data({"dataset": name, "train_split": "train"})
    assert (source.text, source.on_hub) == ("local images, split `train`", None)
    assert source.licence == "Their licence is not stated here."


def test_what_only_looks_like_an_id(cache):
    (source,) = training_data({"dataset": "my photos/holidays & more"})
    assert source.licence == "Its licence is not stated here: see its page."


def test_shares_of_a_mixture(cache):
    mixture = [{"dataset": "digits", "weight": 3}, {"dataset": "user/photos", "split": "all", "config": "small"}]
    digits, photos = training_data({"dataset": "user/measured", "mixture": mixture})
    assert (digits.weight, photos.weight) == (0.75, 0.25)
    assert digits.text.endswith(", split `train`") and digits.on_hub is None
    assert photos.text.endswith("/user/photos), configuration `small`, split `all`")


def test_nothing_known():
    assert training_data({}) == []


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("digits", "digits"),
        ("ILSVRC/imagenet-1k", "ILSVRC/imagenet-1k"),
        ("/data/images", None),
        ("./images", None),
        ("~/images", None),
        ("here", None),
        ("data/deep/images", None),
        ("shards/*.parquet", None),
        ("", None),
        (None, None),
    ],
)
def test_public_names(tmp_path, monkeypatch, name, public):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert public_name(name) == public
