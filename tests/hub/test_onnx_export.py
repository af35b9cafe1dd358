"""model.onnx gives the embedding that was trained, for any number of images, without torch."""

import importlib.util
import json

import pytest
import torch
from test_export import SIZE, build, run_folder

from lejepa_hf import export_encoder
from lejepa_hf.cli import main
from lejepa_hf.hub import onnx_export
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.model_card import write_model_card
from lejepa_hf.hub.onnx_export import export_onnx
from lejepa_hf.hub.public_files import public_files

onnxruntime = pytest.importorskip("onnxruntime", reason="onnx, onnxscript and onnxruntime are an extra")
# About five seconds each: two kinds of network always, the others on demand.
SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("dinov2_cls", "convnextv2", "swin", "ijepa", "timm_vit")
]


@pytest.mark.parametrize("family", [pytest.param("vit_mean", marks=pytest.mark.slow), "resnet", *SLOW])
def test_embedding_for_any_batch(tmp_path, capsys, family):
    model = run_folder(family, tmp_path).eval()
    assert main(["export", str(tmp_path), "--onnx"]) == 0
    encoder = tmp_path / "encoder"
    assert capsys.readouterr().out == f"{encoder}\n{encoder / 'model.onnx'}\n"
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "model.onnx"}
    assert {path.name for path in encoder.iterdir()} == names
    session = onnxruntime.InferenceSession(encoder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(given.name, given.shape) for given in session.get_inputs()] == [
        ("pixel_values", ["batch", 3, SIZE, SIZE])
    ]
    assert [given.name for given in session.get_outputs()] == ["embedding", "last_hidden_state"]
    for batch in (1, 5):
        pixels = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(batch))
        (embedding,) = session.run(["embedding"], {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            expected = model.encoder(pixels).pooler_output
        torch.testing.assert_close(torch.from_numpy(embedding), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_difference_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    encoder = export_encoder(build("resnet"), tmp_path / "encoder", build_processor(SIZE))
    translate = onnx_export._translate

    def of_other_weights(network, path):
        translate(network, path)
        with torch.no_grad():
            next(network.parameters()).add_(0.1)

    monkeypatch.setattr(onnx_export, "_translate", of_other_weights)
    (encoder / "model.onnx").write_text("earlier")
    with pytest.raises(RuntimeError, match=r"`embedding` differs from torch's by \d.*, for 1 images: nothing was"):
        export_onnx(encoder)
    assert (encoder / "model.onnx").read_text() == "earlier"
    assert (encoder / "model.safetensors").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"encoder"}


@pytest.mark.slow
def test_it_is_published_and_the_card_says_how_to_run_it(tmp_path, monkeypatch):
    model = run_folder("resnet", tmp_path).eval()
    encoder = export_encoder(tmp_path)
    assert "onnx" not in (encoder / "README.md").read_text()
    export_onnx(encoder)
    for place in (torch.__file__, onnx_export.__file__, "stack_trace", "site-packages"):
        assert place.encode() not in (encoder / "model.onnx").read_bytes()
    card = (encoder / "README.md").read_text()
    assert card.count("model.onnx") == 1 and public_files(tmp_path)["model.onnx"] == encoder / "model.onnx"
    assert write_model_card(encoder).read_text().count("model.onnx") == 1
    (line,) = [line for line in card.splitlines() if "model.onnx" in line]
    monkeypatch.chdir(encoder)
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    (embedding,) = eval(line.split("`")[1], {"onnxruntime": onnxruntime, "pixels": pixels})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(embedding), model.encoder(pixels).pooler_output, atol=1e-4, rtol=1e-4
        )
    torch.onnx.export(model.encoder, (pixels,), tmp_path / "encoder" / "model.onnx", dynamo=True, verbose=False)
    assert "model.onnx" not in public_files(tmp_path)  # PyTorch's own names its files here
    export_encoder(tmp_path)  # of other weights, say
    assert "model.onnx" not in public_files(tmp_path) and "onnx" not in (encoder / "README.md").read_text()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(tmp_path, monkeypatch, capsys, missing):
    run_folder("resnet", tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == missing else found(name))
    assert main(["export", str(tmp_path), "--onnx"]) == 2
    captured = capsys.readouterr()
    assert f"error: ONNX needs {missing}: `pip install {missing}`." in captured.err


def test_what_is_no_exported_encoder(tmp_path):
    with pytest.raises(ValueError, match="is not an exported encoder: make one with `lejepa export RUN`"):
        export_onnx(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(ValueError, match="is not an exported encoder"):
        export_onnx(tmp_path)
