"""
Run by two ranks from tests/model/test_batch_norm.py: batch norm in evaluation mode normalises by the batch of both.
"""

import torch
import torch.distributed as dist

from lejepa_hf.model.batch_norm import batch_statistics
from lejepa_hf.model.projector import Projector


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    projector, rows = Projector(6, [16, 16, 4], "batch"), 3 * torch.randn(10, 6) + 1
    own = rows[:3] if rank == 0 else rows[3:]  # uneven
    before = {name: value.clone() for name, value in projector.state_dict().items()}
    with torch.no_grad(), batch_statistics(projector.eval()):
        found = projector(own)
    assert all(torch.equal(value, before[name]) for name, value in projector.state_dict().items())
    expected = projector.train()(own).detach()  # over both ranks
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(projector.eval()(own), expected, atol=0.1)
    # Of this rank's rows alone it would be another one.
    alone = torch.nn.functional.batch_norm(projector.hidden[0].linear(own), None, None, training=True)
    both = torch.nn.functional.batch_norm(projector.hidden[0].linear(rows), None, None, training=True)
    assert not torch.allclose(alone, both[:3] if rank == 0 else both[3:], atol=0.1)
    if rank == 0:
        print("agree")


if __name__ == "__main__":
    main()
