"""Every code block of README and of the pages: parsed in the default run, run as it stands in the slow one."""

import ast
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import regex  # that of transformers: it knows what a text may be the beginning of
import torch
from digit_scenes import save_digit_scenes
from doc_blocks import LANGUAGES, PAGES, ROOT, blocks_of, check_bash, check_yaml, commands_of, run_command, run_python
from hub_client import TOKEN, connect
from hub_server import HubServer
from PIL import Image
from threadpoolctl import threadpool_limits

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.runs import pretraining

WITHOUT_THIS_PACKAGE = "docs/encoders.md"  # its blocks are for people who found an encoder
SHORT = [
    "--max_steps", "2", "--save_steps", "1", "--per_device_train_batch_size", "16", "--use_cpu", "--num_slices", "16",
    "--projector_dims", "16", "8", "--dataloader_num_workers", "0", "--logging_steps", "1", "--monitor_images", "32",
    "--ema_decay", "0.9", "--eval_protocols", "knn",
]  # fmt: skip
_TELLING = 8  # characters of a fixed part that tell one message from another
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNS = [block for block in BLOCKS if block.language == "bash" and block.is_run]


def place_of(block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("page", PAGES)
def test_languages(page):
    """A block of another language, or of none, would be run by nobody."""
    odd = {f"{block.page}:{block.line}": block.language for block in blocks_of(page)}
    assert not {where: language for where, language in odd.items() if language not in LANGUAGES}
    fences = re.findall(r"^ *```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks_of(page)), "a fence without its end, or a kind of block not found here"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "bash"], ids=place_of)
def test_bash_is_understood(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_bash(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=place_of)
def test_yaml_is_a_recipe(block):
    check_yaml(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=place_of)
def test_python_is_python(block):
    compile(block.code, place_of(block), "exec")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with small runs, images and a Hub under the names that pages use."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pages")
    for name in ("recipes", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("photos", "path/to/folder", "animals/train", "animals/test"):
        for number in range(24):
            path = folder / name / ("cats", "dogs")[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (12, 16, 3), generator=torch.Generator().manual_seed(number))
            Image.fromarray(pixels.byte().numpy()).resize((320, 240)).save(path)
    shutil.copy(folder / "photos/cats/0.jpg", folder / "photo.jpg")
    save_digit_scenes(folder / "scenes")
    # One thread for scikit-learn too: on shared cores threads wait for each other.
    hub = HubServer(folder / "hub", tokens={TOKEN: "me"})
    with hub as server, pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.chdir(folder)
        run, vit = "runs/digits-resnet_tiny", "runs/digits-vit_tiny"
        for recipe, output, more in (
            ("resnet_tiny", run, []),
            ("vit_tiny", vit, ["--eval_split", "null", "--dataset", "photos"]),
        ):
            assert pretraining.main([f"recipes/digits/{recipe}.yaml", *SHORT, *more, "--output_dir", output]) == 0
        Path(run, "checkpoint-2").rename(Path(run, "checkpoint-600"))
        Path("runs/digits").symlink_to("digits-vit_tiny")
        timm = {"model_type": "timm_wrapper", "architecture": "resnet18"}
        model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=timm, projector_dims=[8]))
        export_encoder(model, "runs/timm/encoder", build_processor(24, 1.0))
        run_command(("lejepa", "export", run, "--onnx"), folder, server)
        (train,) = [
            words for block in RUNS for words in commands_of(block) if block.page == "README.md" and "train" in words
        ]
        run_command(tuple(train), folder, server)  # of whose encoder the page's Python makes use
        (embed,) = [
            words for words in commands_of(blocks_of("docs/features.md", "bash")[0]) if "embeddings.parquet" in words
        ]
        run_command(tuple(embed), folder, server)
        connect(server, patch)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hf-cache"))
        run_command(("lejepa", "push", run, "me/lejepa-digits"), folder, server)
        yield folder, server


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python") and page != "CONTRIBUTING.md"])
def test_python_blocks(page, place):
    """Those of CONTRIBUTING.md are files of the package, which tests of their rooms run."""
    printed = run_python(page, *place, installed=page != WITHOUT_THIS_PACKAGE)
    sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", printed, re.MULTILINE))
    assert len(sections) >= len({block.section for block in blocks_of(page, "python") if block.is_installed})
    if page == WITHOUT_THIS_PACKAGE:
        assert sections["Embed images"] == "torch.Size([1, 128]) True\n"
        assert float(sections["Nearest neighbours"].split()[1]) > 0.5
        assert sections["Feature maps"] == "[(1, 64, 8, 8), (1, 128, 4, 4)]\n"
        assert sections["timm"].startswith("torch.Size([1, 512]) [(1, 64, 32, 32), ")
        assert sections["ONNX"] == "(2, 128)\n"


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNS, ids=place_of)
def test_bash_blocks(block, place):
    for words in commands_of(block):
        if words[0] not in ("pip", "pytest", "make"):  # `.ci/run` installs and tests
            run_command(tuple(words), *place)


def messages_of_the_package() -> list[tuple[regex.Pattern, list[str]]]:
    """Every longer text of the sources: as a pattern in which anything stands for what is filled in, and its parts."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            fixed = [text for text in texts if isinstance(text, str) and len(text) >= _TELLING]
            if fixed:
                pattern = "".join(regex.escape(text) if isinstance(text, str) else ".+" for text in texts)
                found.append((regex.compile(pattern, regex.DOTALL), fixed))
    return found


def test_troubles_are_real():
    """Each message on the page is the beginning of one that the package gives."""
    known = messages_of_the_package()
    told = [line for block in blocks_of("docs/troubleshooting.md", "text") for line in block.code.splitlines()]
    assert len(told) > 15
    unknown = [
        message
        for message in told
        if not any(
            any(text[:_TELLING] in message for text in fixed) and pattern.fullmatch(message, partial=True)
            for pattern, fixed in known
        )
    ]
    assert not unknown
