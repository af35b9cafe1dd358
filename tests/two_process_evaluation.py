"""Run in two processes from tests/runs/test_shared_embeddings.py: both embed, and get what one of them gets alone."""

import json
import sys

import torch
import torch.distributed as dist

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.baselines import PIXELS, table_columns
from lejepa_hf.evaluation.embeddings import extraction
from lejepa_hf.runs import shared_embeddings
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.shared_embeddings import embed_together
from lejepa_hf.system.distributed import process_index
from lejepa_hf.system.run_folder import RunFolder


def main(recipe_file: str, failure: str) -> None:
    dist.init_process_group("gloo")
    recipe, rank = parse_recipe(recipe_file), process_index()
    held_out, embedded = load_source("digits", "test"), []
    of_one_process = extraction._fill

    def fill(parts, extractor, source, batch_size):
        embedded.append(source.dataset.num_rows)
        if failure == "embedding" and rank == 1 and len(embedded) == 3:
            raise OSError("no room")
        of_one_process(parts, extractor, source, batch_size)

    extraction._fill = fill
    if failure == "export" and rank == 0:
        shared_embeddings.export_encoder = None
    found = embed_together(recipe, held_out)
    if rank == 1:
        sys.stdout.write(f"embedded: {json.dumps(embedded)}\n")
    dist.destroy_process_group()
    if found is None:
        sys.stdout.write(f"rank {rank} has nothing\n")
        return
    run = RunFolder(recipe.folder)
    assert rank == 1 or not run.embeddings.exists()
    for name, make in table_columns(run.encoder).items():
        if name not in found._columns:
            sys.stdout.write(f"rank {rank} lacks {name}\n")
        elif rank == 0:
            embed = found.found(name, make)()
            alone = make()
            for source in (found.train, held_out):
                one, other = embed(source), alone(source)
                torch.testing.assert_close(one.embeddings, other.embeddings, rtol=1e-5, atol=1e-6)
                assert torch.equal(one.labels, other.labels)
            assert found.found(name, make) is make, "each is used once"
            sys.stdout.write(f"{name} agrees\n")
    assert PIXELS not in found._columns


if __name__ == "__main__":
    main(*sys.argv[1:])
