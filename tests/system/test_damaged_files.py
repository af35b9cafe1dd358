import json
import os
import random

import numpy as np
import pytest
import torch
from payload import Payload, save_shards
from safetensors.torch import save_file

from lejepa_hf.system.damaged_files import damage_of, first_damage, read_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def files(tmp_path):
    """One readable file of each kind."""
    save_file({"a": torch.ones(9)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"a": [1, None]}))
    torch.save({"state": {0: torch.ones(9)}, "betas": (0.9, 0.95)}, tmp_path / "optimizer.pt")
    torch.save({"numpy": np.random.get_state(), "cpu": torch.get_rng_state()}, tmp_path / "rng_state.pth")
    save_shards({"model": {"a": torch.ones(9)}, "lr": 0.1}, tmp_path / "shards")
    return sorted(tmp_path.iterdir())


def test_whole_files(files):
    assert [damage_of(path, thorough=True) for path in files] == [None] * 5
    assert first_damage(files) is None


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "optimizer.pt")
    assert damage_of(tmp_path / "optimizer.pt") == "optimizer.pt is not a regular file"


@pytest.mark.parametrize(
    ("content", "damage"), [(POINTER, "is a git-lfs pointer instead of the file"), (b"", "is emp")]
)
def test_pointers_and_empty_files(files, content, damage):
    for path in files[:-1]:
        path.write_bytes(content)
        assert damage_of(path).startswith(f"{path.name} {damage}")
    assert first_damage(files).startswith(files[0].name)


def test_missing_files(tmp_path):
    for name in ("model.safetensors", "config.json", "optimizer.pt"):
        assert damage_of(tmp_path / name).startswith(f"{name} is damaged (")


def test_other_numbers_are_found_by_checksums_alone(files, tmp_path):
    path = tmp_path / "optimizer.pt"
    ones, twos = (torch.full((9,), value).numpy().tobytes() for value in (1.0, 2.0))
    path.write_bytes(path.read_bytes().replace(ones, twos))
    assert damage_of(path) is None
    assert damage_of(path, thorough=True) == "optimizer.pt is damaged (its checksums do not match)"


def test_what_could_run_code_is_named(tmp_path):
    torch.save({"a": Payload(tmp_path / "made")}, tmp_path / "optimizer.pt")
    damage = damage_of(tmp_path / "optimizer.pt")
    assert damage in [
        f"optimizer.pt contains `{os}.mkdir`, which could run code, and is not read" for os in ("posix", "nt")
    ]
    assert not (tmp_path / "made").exists()


def test_any_damage_is_one_line_with_the_name(files):
    """Bytes at random places: many errors of many readers, none of which may escape."""
    draw = random.Random(0)
    paths = [*files[:-1], files[-1] / ".metadata"]
    for path in paths:
        whole = path.read_bytes()
        for _ in range(60):
            torn = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.3 else whole)
            for _ in range(draw.randrange(4)):
                torn[draw.randrange(len(torn))] = draw.randrange(256) if torn else 0
            path.write_bytes(torn)
            damage = damage_of(files[-1] if path.name == ".metadata" else path, thorough=True)
            assert damage is None or "\n" not in damage
        path.write_bytes(whole)


def test_a_damaged_json_file_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
    for content, damage in ((POINTER, "is a git-lfs pointer"), (b"{", "is damaged"), (b"\xff\xfe", "is damaged")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"'{path}' cannot be read: config.json {damage}"):
            read_json(path)
