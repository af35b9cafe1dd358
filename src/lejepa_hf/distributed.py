"""The only file that calls torch.distributed."""

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of ranks in the default process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        return total_over_ranks(tensor)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return grad * world_size()


def sum_for_loss(tensor: torch.Tensor) -> torch.Tensor:
    """
    Sum over ranks of a quantity from which every rank computes the same loss.

    DDP and FSDP average gradients over the W ranks, but the gradient of a sum over ranks is the sum of the ranks'
    parts. So each part passes back W times the incoming gradient, with no collective in backward: after averaging,
    parameters receive exactly the gradient of one process on the joined batch, also when ranks hold unequal batches.

    Args:
        tensor (`torch.Tensor`): The local part; the same shape and dtype on every rank.

    Returns:
        `torch.Tensor`: The total over ranks, or `tensor` itself where there is one rank.
    """
    return _LossSum.apply(tensor) if world_size() > 1 else tensor


def total_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """
    Sum over ranks, without a gradient.

    Args:
        tensor (`torch.Tensor`): The local part; the same shape and dtype on every rank.

    Returns:
        `torch.Tensor`: The total, a new tensor.
    """
    total = tensor.detach().clone().contiguous()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def stack_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """
    The tensors of all ranks, without a gradient.

    Args:
        tensor (`torch.Tensor`): The local part; the same shape and dtype on every rank.

    Returns:
        `torch.Tensor` of shape `(world_size, *tensor.shape)`: In the order of ranks.
    """
    if world_size() == 1:
        return tensor.detach()[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.stack(parts)
