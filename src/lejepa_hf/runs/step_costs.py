"""What a training step computes and keeps, counted on a model on the meta device: tokens, FLOPs, activations."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..data.view_settings import ViewSettings
from ..modeling_lejepa import LeJEPAForPreTraining


def kinds_of_views(views: ViewSettings) -> list[tuple[str, int, int]]:
    """Kind, `global` or `local`, number and side in pixels of the views of an image."""
    kinds = [("global", views.num_global_views, views.global_crop_size)]
    return kinds + ([("local", views.num_local_views, views.local_crop_size)] if views.num_local_views else [])


def count_tokens(model: LeJEPAForPreTraining, views: ViewSettings, size: int, kind: str | None = None) -> int:
    """
    Count the positions of the backbone's last layer for a view of `size` pixels a side: a transformer's tokens, or the
    pixels of a feature map. With a `kind`, `global` or `local`, without the tokens that such views drop in training.
    """
    drop_tokens = kind is not None and model.config.drops_tokens_of(kind)
    model.train(drop_tokens)  # only where needed: batch norm refuses a single value in training mode
    with torch.no_grad():
        pixels = torch.empty(1, views.num_channels, size, size, device="meta")
        last = model.encoder(pixels, drop_tokens=drop_tokens).last_hidden_state
    return last.shape[1] if last.ndim == 3 else last[0, 0].numel()


def count_flops(model: LeJEPAForPreTraining, views: ViewSettings) -> float:
    """Multiplications and additions of the forward pass for all views of an image."""
    model.eval().encoder.train(model.config.token_drop_rate > 0)  # tokens are dropped in training mode only
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _project(model, views, 1)
    return float(counter.get_total_flops())


def count_embedding_flops(model: LeJEPAForPreTraining, views: ViewSettings) -> float:
    """Multiplications and additions of the encoder for an image as it is evaluated: one crop, with all its tokens."""
    pixels = torch.empty(1, views.num_channels, views.global_crop_size, views.global_crop_size, device="meta")
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encoder(pixels)
    return float(counter.get_total_flops())


def count_activations(model: LeJEPAForPreTraining, views: ViewSettings) -> int:
    """Bytes that are kept for the backward pass of an image, in fp32."""
    # The difference of two batches: what does not grow with the batch is not an activation.
    return (_kept_bytes(model, views, 4) - _kept_bytes(model, views, 2)) // 2


def _kept_bytes(model: LeJEPAForPreTraining, views: ViewSettings, batch: int) -> int:
    storages = {}  # holding the storages keeps them alive, so that none is freed and its address used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = _project(model.train(), views, batch)
    of_weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    found = sum(storage.nbytes() for address, storage in storages.items() if address not in of_weights)
    del output
    return found


def _project(model: LeJEPAForPreTraining, views: ViewSettings, batch: int) -> torch.Tensor:
    """All views of a batch through encoder and projector: a step without the loss, which is small."""
    embeddings = []
    for kind, number, size in kinds_of_views(views):
        pixels = torch.empty(batch * number, views.num_channels, size, size, device="meta")
        embeddings.append(model.encoder(pixels, drop_tokens=model.config.drops_tokens_of(kind)).pooler_output)
    return model.projector(*embeddings)
