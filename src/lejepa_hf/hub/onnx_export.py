"""An exported encoder -> model.onnx beside its weights, checked against them."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from ..model.architecture import forward_kwargs, is_timm, native_image_size, num_channels
from ..model.foreign_settings import refuse_foreign_settings
from ..model.layers import final_states, pool
from ..model.loading_errors import refuse_not_finite
from ..system.durable_files import complete_folder
from ..system.error_text import reason_of
from .model_card import with_onnx

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OUTPUTS = ["embedding", "last_hidden_state"]
_TRACED_BATCH, _CHECKED_BATCHES = 2, (1, 3)
_MAX_DIFFERENCE = 1e-3  # as a share of the largest output; another order of sums makes a thousandth of that
_ONE_FILE = 1.5e9  # bytes of weights; protobuf is limited to 2 GiB, larger ones go into a file of their own


class _Encoder(nn.Module):
    """Tensors in and out: ONNX does not know `ModelOutput`."""

    def __init__(self, encoder: PreTrainedModel, size: int) -> None:
        super().__init__()
        self.encoder, self.size, self.pooling = encoder, size, encoder.config.embedding_pooling
        self.kwargs = forward_kwargs(encoder) if size != native_image_size(encoder.config) else {}

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.encoder(pixel_values, **self.kwargs)
        states = final_states(outputs)
        assert states is not None, "every backbone that can be trained returns states"
        return pool(outputs, self.pooling), states

    def example(self, batch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(batch)
        return torch.randn(batch, num_channels(self.encoder.config), self.size, self.size, generator=generator)


def export_onnx(encoder_folder: str | Path, path: str | Path | None = None) -> Path:
    """
    Write an exported encoder as ONNX, and compare it with the torch model in onnxruntime.

    Input: `pixel_values` of shape `(batch, channels, size, size)`, fp32, any number of images, normalised and cropped
    to `size` pixels by the folder's processor. Outputs: `embedding` of shape `(batch, embedding_dim)`, the trained
    one, and `last_hidden_state`.

    Args:
        encoder_folder (`str` or `Path`): Encoder from [`export_encoder`].
        path (`str` or `Path`, *optional*): The file; if missing, `model.onnx` in the folder, whose card then
            describes its use. Weights of more than 1.5 GB are written beside it, to `<name>.data`.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is missing.
        ValueError: If the folder contains no exported encoder, or PyTorch cannot translate its class.
        RuntimeError: If an output differs from the torch model's by more than a thousandth of the largest value.
        OSError: If the file cannot be written.
    """
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: `pip install {' '.join(missing)}`.")
    folder = Path(encoder_folder)
    path = folder / "model.onnx" if path is None else Path(path)
    encoder = _read(folder)
    with complete_folder(path.parent, stale=[f"{path.name}.data"]) as aside:
        _translate(encoder, aside / path.name)
        _compare(encoder, aside / path.name)
        card = path.parent / "README.md"
        if path.name == "model.onnx" and card.is_file():
            (aside / card.name).write_text(with_onnx(card.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def _read(folder: Path) -> _Encoder:
    has_config = (folder / "config.json").is_file()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False) if has_config else None
    if config is None or "embedding_pooling" not in config.to_dict():
        raise ValueError(f"{str(folder)!r} is not an exported encoder: make one with `lejepa export RUN`.")
    refuse_foreign_settings(config)
    # PyTorch's fused attention cannot be translated for every class (Swin's windows), its plain form can. timm chooses
    # for itself.
    attention = {} if is_timm(config) else {"attn_implementation": "eager"}
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, **attention).eval()
    refuse_not_finite("encoder", folder, encoder)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).to_dict()
    size = (processor.get("crop_size") or processor["size"])["height"]
    return _Encoder(encoder, size).eval()


def _translate(encoder: _Encoder, path: Path) -> None:
    weights = sum(value.nbytes for value in encoder.state_dict().values())
    try:
        program = torch.onnx.export(
            encoder,
            (encoder.example(_TRACED_BATCH),),
            input_names=["pixel_values"],
            output_names=_OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "with `dynamo` there is one"
        _remove_stack_traces(program)
        program.save(path, external_data=weights > _ONE_FILE)
    except torch.onnx.OnnxExporterError as error:
        name, reason = type(encoder.encoder).__name__, reason_of(error)  # pages of advice follow
        raise ValueError(f"PyTorch {torch.__version__} does not translate {name} into ONNX ({reason}).") from error


def _remove_stack_traces(program: torch.onnx.ONNXProgram) -> None:
    """PyTorch notes for each node the stack that made it, with paths of this machine."""
    for graph in (program.model.graph, *program.model.functions.values()):
        for node in graph:
            node.metadata_props.clear()


@torch.no_grad()
def _compare(encoder: _Encoder, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in _CHECKED_BATCHES:
        pixels = encoder.example(batch)
        found = session.run(_OUTPUTS, {"pixel_values": pixels.numpy()})
        for name, value, expected in zip(_OUTPUTS, found, encoder(pixels), strict=True):
            difference, largest = (torch.from_numpy(value) - expected).abs().max(), expected.abs().max()
            if not difference <= _MAX_DIFFERENCE * largest:
                raise RuntimeError(
                    f"ONNX's `{name}` differs from torch's by {difference:.2g} at most, where values reach "
                    f"{largest:.2g}, for {batch} images: nothing was written; try other versions of torch and onnx."
                )
