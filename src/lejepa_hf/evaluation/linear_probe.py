"""Linear probe on frozen embeddings."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .embedding_extraction import LabelledEmbeddings
from .top_k_accuracy import TopKAccuracy


def linear_probe(
    train: LabelledEmbeddings,
    test: LabelledEmbeddings,
    learning_rate: float = 1e-2,
    num_steps: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """
    LayerNorm and one linear layer, AdamW with weight decay 1e-6, warmup and cosine.

    Args:
        train ([`LabelledEmbeddings`]): Fits the probe.
        test ([`LabelledEmbeddings`]): Measures it.
        learning_rate (`float`, *optional*, defaults to 1e-2): Peak.
        num_steps (`int`, *optional*, defaults to 1000): Optimiser steps, a tenth of them warmup.
        batch_size (`int`, *optional*, defaults to 256): Embeddings a step.
        seed (`int`, *optional*, defaults to 0): Of the batches; the layer starts at zero.

    Returns:
        `dict[str, float]`: `eval_linear_top1` and `eval_linear_top5`, in [0, 1].

    Source: arXiv 2511.08544, experiment details; learning rate, steps and batch are not published and ours.
    """
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    dim = train.embeddings.shape[1]
    # The layer starts at zero; drawing its weights first would move the global RNG.
    probe = nn.Sequential(nn.LayerNorm(dim), nn.utils.skip_init(nn.Linear, dim, num_classes))
    nn.init.zeros_(probe[1].weight)
    nn.init.zeros_(probe[1].bias)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=learning_rate, weight_decay=1e-6)
    warmup = num_steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warmup
            if step < warmup
            else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (num_steps - warmup))
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    # Embeddings of tiny scale would drown in LayerNorm's epsilon.
    scale = train.embeddings.std().clamp_min(1e-12)
    for _ in range(num_steps):
        rows = torch.randint(len(train.labels), (min(batch_size, len(train.labels)),), generator=generator)
        loss = F.cross_entropy(probe(train.embeddings[rows] / scale), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        best = probe(test.embeddings / scale).topk(min(5, num_classes)).indices
    top = TopKAccuracy().compute(predictions=best.tolist(), references=test.labels.tolist())
    return {f"eval_linear_{name}": value for name, value in top.items()}
