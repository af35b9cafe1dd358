"""
lightly's LeJEPA and ours with the same network, views, optimizer settings and steps.

    pip install --no-deps lightly==1.6.0
    python benchmarks/study_lightly.py

lightly's loss and projection head run in a plain loop on our views, because lightly's transforms are made for
photographs. As in its reference benchmark, the head gets global and local views one after the other, as ours does
with `projector_norm: batch_per_size`. The goal: ours is at least as good. It was not with one norm for all views, nor
with projector weights drawn by He's rule; both were our defaults in earlier versions.
"""

from itertools import islice

import torch
from study_runs import draw_groups, export, print_table, run_study, train_ours, write_rows
from torch import nn
from transformers import get_scheduler

from lejepa_hf.data.photometric import apply_photometric
from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipes import Recipe
from lejepa_hf.runs.resolving import resolve


def train_lightly(recipe: Recipe) -> None:
    from lightly.loss.lejepa_loss import LeJEPALoss
    from lightly.models.modules.heads import LeJEPAProjectionHead

    trainer, _ = build(resolve(recipe))
    config, args = trainer.model.config, trainer.args
    encoder, (*hidden, output) = trainer.model.encoder.train(), config.projector_dims
    head = LeJEPAProjectionHead(encoder.embedding_dim, hidden[0], output, num_layers=len(config.projector_dims))
    criterion = LeJEPALoss(config.sigreg_weight, False, config.num_knots, config.t_max, config.num_slices)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=args.weight_decay)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        args.get_warmup_steps(args.max_steps),
        args.max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )

    def project(views: torch.Tensor) -> torch.Tensor:
        embeddings = encoder(views.transpose(0, 1).flatten(0, 1)).pooler_output
        return head(embeddings).unflatten(0, (views.shape[1], views.shape[0]))

    for batch in islice(trainer.get_train_dataloader(), args.max_steps):  # the loader never ends
        views = apply_photometric(batch, trainer.data_collator.transform)
        loss = criterion(global_proj=project(views["global_views"]), local_proj=project(views["local_views"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    export(trainer, recipe)


def train_he_rule(recipe: Recipe) -> None:
    trainer, _ = build(resolve(recipe))
    for module in trainer.model.projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias) if module.bias is not None else None
    trainer.train()
    export(trainer, recipe)


ONE_NORM = {"projector_norm": "batch"}
GROUPS = {
    "ours": (train_ours, {}),
    "lightly": (train_lightly, {}),
    "ours, one norm for all views": (train_ours, ONE_NORM),
    "the same, He's rule": (train_he_rule, ONE_NORM),
}
WEIGHTS = {"0.02, the recipe's": {}, "0.05, lightly's": {"sigreg_weight": 0.05}}
LABELS = {name: {weight: f"{name}, weight {weight}" for weight in WEIGHTS} for name in GROUPS}


def main() -> None:
    rows = []
    for name, (train, setting) in GROUPS.items():
        rows += run_study({LABELS[name][weight]: setting | own for weight, own in WEIGHTS.items()}, train)
    write_rows("lightly", rows)
    print_table(rows)
    draw_groups("lightly", rows, LABELS, "sigreg_weight")


if __name__ == "__main__":
    main()
