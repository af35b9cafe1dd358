import pytest
import torch

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.hub.trained_model import read_trained_model, trained_folder


@pytest.fixture
def model(tiny_resnet) -> LeJEPAForPreTraining:
    torch.manual_seed(0)
    return LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))


def test_no_model_in_the_folder(tmp_path, model):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="holds neither pretraining/ nor a checkpoint"):
        export_encoder(tmp_path)
    with pytest.raises(ValueError, match="nothing' holds neither"):
        export_encoder(tmp_path / "nothing", tmp_path / "encoder")
    model.save_pretrained(tmp_path / "checkpoint-7")
    with pytest.raises(ValueError, match="did not end; choose one of its checkpoints: checkpoint-7"):
        export_encoder(tmp_path)
    (tmp_path / "checkpoint-7" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="checkpoint-7' cannot be read .* choose another checkpoint"):
        export_encoder(tmp_path / "checkpoint-7")
    (tmp_path / "checkpoint-7" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has a config.json and no weights"):
        export_encoder(tmp_path / "checkpoint-7")
    assert not list(tmp_path.glob("*encoder*"))


def test_the_end_of_a_run_is_its_model_and_a_checkpoint_only_by_name(tmp_path, model):
    for name in ("checkpoint-90", "checkpoint-100", "checkpoint-best"):
        model.config.save_pretrained(tmp_path / name)
    assert trained_folder(str(tmp_path / "checkpoint-90")) == tmp_path / "checkpoint-90"
    with pytest.raises(ValueError, match=r"choose one of its checkpoints: checkpoint-90, checkpoint-100\.$"):
        trained_folder(tmp_path)
    model.config.save_pretrained(tmp_path / "pretraining")
    assert trained_folder(tmp_path) == trained_folder(tmp_path / "pretraining") == tmp_path / "pretraining"


def test_a_file_of_fsdp_holds_all_weights(tmp_path, model):
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model_fsdp.bin")
    found, expected = read_trained_model(tmp_path).state_dict(), model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    model.config.projector_dims = [16]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="(?s)cannot be read .*size mismatch.*: choose another checkpoint"):
        read_trained_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_file_of_fsdp_that_is_not_one_is_named(tmp_path, model, content):
    model.config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model_fsdp.bin").write_bytes(content)
    with pytest.raises(ValueError, match="The weights in .* cannot be read .*: choose another checkpoint"):
        read_trained_model(tmp_path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_torn_file_of_fsdp_is_named(tmp_path, model, part):
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "pytorch_model_fsdp.bin"
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match="The weights in .* cannot be read .*: choose another checkpoint"):
        read_trained_model(tmp_path)


def test_an_empty_folder_of_shards_is_named(tmp_path, model):
    model.config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(ValueError, match="The weights in .* cannot be read .*: choose another checkpoint"):
        read_trained_model(tmp_path)


def test_weights_that_are_not_finite(tmp_path, model):
    with torch.no_grad():
        next(model.projector.parameters())[0] = torch.nan
    model.save_pretrained(tmp_path / "pretraining")
    with pytest.raises(ValueError, match=r"has weights that are NaN or infinite: 1 of \d+ tensors .*\(projector\."):
        export_encoder(tmp_path)
    assert not (tmp_path / "encoder").exists()
