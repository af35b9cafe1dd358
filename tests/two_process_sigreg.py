"""
Run by torchrun from tests/losses/test_sigreg.py: SIGReg alone, as it is and compiled, equals one process on the joined
batch, in value and in the gradient averaged over ranks.
"""

import torch
import torch.distributed as dist

from lejepa_hf import SIGReg

SIZES = [5, 3]


def main() -> None:
    sequences = torch.randn(sum(SIZES), 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    alone = SIGReg(num_slices=16, batch_first=True)
    expected = []
    for _ in range(2):  # two steps, counted
        value = alone(sequences)
        expected.append((value.item(), torch.autograd.grad(value, sequences)[0]))

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    own = sequences.detach()[mine].requires_grad_()
    eager = SIGReg(num_slices=16, batch_first=True)
    compiled = torch.compile(SIGReg(num_slices=16, batch_first=True), fullgraph=True, backend="aot_eager")
    for sigreg in (eager, compiled):
        for value, gradient in expected:
            loss = sigreg(own)
            assert abs(loss.item() - value) < 1e-5 * value, f"rank {rank}: {loss.item()}, not {value}"
            (found,) = torch.autograd.grad(loss, own)
            # DDP would average over ranks the gradients of parameters that each rank's samples share.
            torch.testing.assert_close(found / len(SIZES), gradient[mine], rtol=1e-4, atol=1e-6)
    dist.destroy_process_group()
    print(f"rank {rank} agrees")


if __name__ == "__main__":
    main()
