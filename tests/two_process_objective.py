"""
Run by torchrun from tests/test_distributed.py: every rank compares loss and DDP-averaged gradients with one process
on the joined batch, computed before the process group exists.
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining

TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
    "initializer_range": 0.3,  # at 0.02 images differ so little that fp32 rounding alone exceeds the tolerance
}


def wrap(model, kind: str):
    if kind == "ddp":
        return DistributedDataParallel(model, broadcast_buffers=False)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in [*model.encoder.backbone.layers, model.projector]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def full_gradient(parameter):
    return parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad


def main(norm: str, sizes: list[int], kind: str = "ddp", statistic: str = "epps_pulley") -> None:
    torch.manual_seed(0)
    config = LeJEPAConfig(
        backbone_config=TINY_VIT,
        projector_dims=[24, 24, 8],
        projector_norm=norm,
        num_slices=32,
        sigreg_weight=0.3,
        statistic=statistic,
    )
    model = LeJEPAForPreTraining(config)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    total = sum(sizes)
    global_views, local_views = torch.randn(total, 2, 3, 8, 8), torch.randn(total, 3, 3, 4, 4)

    alone = model(global_views, local_views, step=5)
    alone.loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model.load_state_dict(start)
    model.zero_grad()
    wrapped = wrap(model, kind)
    reduced = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, *args, **kwargs: reduced.append(tensor) or all_reduce(tensor, *args, **kwargs)
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    together = wrapped(global_views[mine], local_views[mine], step=5)
    together.loss.backward()

    if norm == "layer" and statistic == "epps_pulley":
        assert [tensor.dtype for tensor in reduced] == [torch.float32], f"{len(reduced)} all-reduces"
        assert reduced[0].numel() == 2 + 2 * 5 * 32 * 17, "count, distances, sums of 5 views"
    for name in ("loss", "prediction_loss", "sigreg_loss"):
        relative = abs(getattr(together, name).item() / getattr(alone, name).item() - 1)
        assert relative < 1e-5, f"rank {rank}: {name} off by {relative}"
    # Relative to the largest gradient: before a batch norm some are zero up to rounding.
    scale = max(gradient.norm() for gradient in expected.values())
    for name, parameter in model.named_parameters():
        error = (full_gradient(parameter) - expected[name]).norm()
        assert error < 1e-5 * max(expected[name].norm(), 1e-2 * scale), f"rank {rank}: {name} off by {error}"
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-4, atol=1e-6)
    dist.destroy_process_group()
    print(f"rank {rank} agrees")


if __name__ == "__main__":
    main(sys.argv[1], [int(size) for size in sys.argv[2].split(",")], *sys.argv[3:])
