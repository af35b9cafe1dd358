import json
from pathlib import Path

import pytest

from lejepa_hf.hub.public_files import is_of_this_package, pictures_of_local_images, public_files

MODEL = {"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "preprocessor_config.json"}


def write(folder: Path, *names: str) -> None:
    """Small files of these names; JSON is an empty object."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n" if name.endswith("json") else "", encoding="utf-8")


def test_a_run_is_chosen_from_a_list(tmp_path):
    texts = {"recipe.yaml", "versions.json", "results.json", "statistics.json", "metrics.jsonl"}
    encoder = MODEL | {"README.md"}
    write(tmp_path, *texts, *(f"{part}/{name}" for part in ("encoder", "encoder_averaged") for name in encoder))
    write(tmp_path, *(f"pretraining/{name}" for name in MODEL), "pictures/losses.png")
    write(
        tmp_path, "run.json", "report.html", "_checkpoint-2_to_push/config.json", "checkpoint-2/model.safetensors",
        "checkpoint-2/optimizer.pt", "pretraining/training_args.bin", "pretraining/README.md", "encoder/model.bin",
        "encoder/notes.txt", "encoder/pytorch_model.bin", "encoder/more/config.json", "pictures/losses.svg",
    )  # fmt: skip
    found = public_files(tmp_path)
    parts = {f"encoder_averaged/{name}" for name in encoder} | {f"pretraining/{name}" for name in MODEL}
    assert found.keys() == texts | encoder | parts | {"pictures/losses.png"}
    assert found["model-00001-of-00002.safetensors"] == tmp_path / "encoder" / "model-00001-of-00002.safetensors"
    assert {name for name, file in found.items() if isinstance(file, Path)} == {
        name for name in found if name.endswith((".png", ".safetensors"))
    }


def test_an_encoder_alone_may_bring_its_network_in_training(tmp_path):
    write(tmp_path, *MODEL, "README.md", "recipe.yaml", "metrics.jsonl", "pictures/losses.png")
    assert public_files(str(tmp_path)).keys() == MODEL | {"README.md"}
    write(tmp_path, *(f"pretraining/{name}" for name in MODEL))
    assert public_files(tmp_path).keys() == MODEL | {"README.md"} | {f"pretraining/{name}" for name in MODEL}


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("read from HOME/images/a.png, then", "read from <local>, then"),
        ("(HOME) and 'HOME/b'", "(<local>) and '<local>'"),
        ("RUN/encoder", "<local>"),
        ("HOME-old/a and HOMEs", "HOME-old/a and HOMEs"),
        ("https://example.orgHOME/a", "https://example.orgHOME/a"),
        ("hf_abcd1234 and api_org_abcd1234", "<secret> and <secret>"),
        ("hf_abcd123 and xhf_abcd1234", "hf_abcd123 and xhf_abcd1234"),
        ("s3cretkey and s3cretk", "<secret> and s3cretk"),
    ],
)
def test_paths_and_tokens_are_replaced_and_nothing_like_them(tmp_path, monkeypatch, caplog, text, public):
    home, run = tmp_path / "ann", tmp_path / "run"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MY_API_KEY", "s3cretke")
    monkeypatch.setenv("SHORT_TOKEN", "s3cretk")
    text, public = (part.replace("HOME", str(home)).replace("RUN", str(run)) for part in (text, public))
    write(run, "metrics.jsonl")
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    public = public.replace("<secret> and s3cretk", "<secret>y and s3cretk")
    assert public_files(run) == {"metrics.jsonl": public.encode()}
    assert ("metrics.jsonl: paths of this machine and tokens" in caplog.text) == (public != text)


def test_where_weights_were_read_from_stays_private_however_deep(tmp_path):
    write(tmp_path, *MODEL)
    parts = {"backbone_config": {"_name_or_path": "x", "size": 3}, "parts": [{"_name_or_path": "y"}, "ü"]}
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "z"} | parts), encoding="utf-8")
    content = public_files(tmp_path)["config.json"].decode("utf-8")
    assert json.loads(content) == {"backbone_config": {"size": 3}, "parts": [{}, "ü"]} and "ü" in content


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("model-00001-of-00002.safetensors", True), ("model.onnx.data", True), ("recipe.yaml", True),
        ("pictures/any.png", True), ("encoder_averaged/README.md", True), ("pretraining/config.json", True),
        ("LICENSE", False), ("assets/logo.png", False), ("pictures/more/any.png", False),
        ("pretraining/README.md", False), ("encoder/config.json", False), ("tokenizer.json", False),
    ],
)  # fmt: skip
def test_only_files_of_these_names_may_be_deleted_by_the_next_push(name, is_ours):
    assert is_of_this_package(name) == is_ours


CARD = """\
```python
folder = "."  # this folder, or the id of its repository on the Hub
encoder = AutoModel.from_pretrained(folder).eval()
```

## Pictures

![Neighbours, near](../pictures/neighbours.png)

## Recipe
"""


def test_a_card_names_its_repository_and_shows_what_is_published(tmp_path):
    write(tmp_path, "encoder/config.json", "encoder_averaged/config.json", "pictures/neighbours.png")
    for part in ("encoder", "encoder_averaged"):
        (tmp_path / part / "README.md").write_text(CARD, encoding="utf-8")
    here = public_files(tmp_path)
    assert here["README.md"].decode() == CARD.replace("../pictures", "pictures")
    there = public_files(tmp_path, "me/x", "more", without=["pictures/neighbours.png"])
    assert there.keys() == here.keys() - {"pictures/neighbours.png"}
    for name, options in (
        ("README.md", ', revision="more"'),
        ("encoder_averaged/README.md", ', revision="more", subfolder="encoder_averaged"'),
    ):
        text = there[name].decode()
        assert text.startswith('```python\nfolder = "me/x"\n') and f"from_pretrained(folder{options})" in text
        assert "Pictures" not in text and text.endswith("```\n\n## Recipe\n")


@pytest.mark.parametrize(
    ("recipe", "is_local"),
    [
        ("dataset: digits", False), ("dataset: me/photos", False), ("dataset: /photos", True), ("", True),
        ("dataset: photos", True), ("dataset: digits\nmixture: [{dataset: me/photos}, {dataset: ./photos}]", True),
        ("mixture: [{dataset: me/photos}]", False),
    ],
)  # fmt: skip
def test_pictures_of_images_that_are_here(tmp_path, recipe, is_local):
    write(tmp_path, "recipe.yaml", "pictures/neighbours.png", "pictures/losses.png")
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert pictures_of_local_images(tmp_path) == (["pictures/neighbours.png"] if is_local else [])
