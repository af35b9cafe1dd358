"""The only file that calls torch.distributed."""

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of ranks in the default process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return grad * world_size()


class _ActivationSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


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


def sum_for_activations(tensor: torch.Tensor) -> torch.Tensor:
    """
    Sum over ranks of a quantity that each rank then applies to its own images, like batch-norm statistics.

    What comes back differs from rank to rank, so backward sums it over ranks too.

    Args:
        tensor (`torch.Tensor`): The local part; the same shape and dtype on every rank.

    Returns:
        `torch.Tensor`: The total over ranks, or `tensor` itself where there is one rank.
    """
    return _ActivationSum.apply(tensor) if world_size() > 1 else tensor
