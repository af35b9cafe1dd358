"""
Run by torchrun from tests/test_exact_accumulation.py: two ranks with two micro-batches each, of unequal sizes, against
one process on the joined batch, computed before the process group exists.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from two_process_objective import TINY_VIT

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.training.exact_accumulation import ExactAccumulation

SIZES = ((3, 2), (1, 4))  # micro-batches of each rank


def main() -> None:
    torch.manual_seed(0)
    config = LeJEPAConfig(
        backbone_config=TINY_VIT, projector_dims=[24, 8], projector_norm="layer", num_slices=32, sigreg_weight=0.3
    )
    model = LeJEPAForPreTraining(config)
    global_views, local_views = torch.randn(10, 2, 3, 8, 8), torch.randn(10, 3, 3, 4, 4)
    alone = model(global_views, local_views, step=5)
    alone.loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model.zero_grad()
    wrapped = DistributedDataParallel(model)
    bounds = torch.tensor([0, *(size for sizes in SIZES for size in sizes)]).cumsum(0).tolist()
    mine = [slice(bounds[2 * rank + part], bounds[2 * rank + part + 1]) for part in range(2)]
    batches = [(global_views[rows], local_views[rows]) for rows in mine]
    exact = ExactAccumulation(model)
    exact.collect(batches, lambda batch, **kwargs: wrapped(*batch, step=5, **kwargs))
    for part, batch in enumerate(batches):
        kwargs = exact.next_part(torch.device("cpu"))
        wrapped.require_backward_grad_sync = part == 1
        together = wrapped(*batch, step=5, **kwargs)
        (together.loss / 2).backward()
        assert abs(together.loss.item() / alone.loss.item() - 1) < 1e-5, f"rank {rank}: {together.loss} {alone.loss}"
    for name, parameter in model.named_parameters():
        error = (parameter.grad - expected[name]).norm()
        assert error < 1e-5 * expected[name].norm() + 1e-7, f"rank {rank}: {name} off by {error}"
    dist.destroy_process_group()
    print(f"rank {rank} agrees")


if __name__ == "__main__":
    main()
