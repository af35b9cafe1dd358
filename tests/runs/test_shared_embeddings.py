import json
from pathlib import Path

import pytest

from lejepa_hf.hub.export import build_processor
from lejepa_hf.system.run_folder import RunFolder

SCRIPT = Path(__file__).parent.parent / "two_process_evaluation.py"


@pytest.fixture
def embedded(untrained, two_processes):
    """What two processes say that embed the images of a run."""
    folder, _ = untrained
    build_processor(16, crop_ratio=1.0).save_pretrained(folder / "pretraining")
    return lambda failure: (RunFolder(folder), two_processes(SCRIPT, str(folder / "recipe.yaml"), failure))


@pytest.mark.slow
def test_two_processes_embed_what_one_does(embedded):
    run, said = embedded("none")
    assert "LeJEPA encoder agrees" in said and "same encoder, untrained agrees" in said
    assert json.loads(said.split("embedded: ")[1].splitlines()[0]) == [674, 225] * 2
    assert run.encoder.is_dir() and not run.embeddings.exists()
    assert said.count("lacks raw pixels") == 2


@pytest.mark.slow
def test_an_error_in_one_process_costs_what_it_made_alone(embedded):
    _, said = embedded("embedding")
    assert "LeJEPA encoder agrees" in said
    assert all(f"rank {rank} lacks same encoder, untrained" in said for rank in range(2))
    assert "One process evaluates alone: rank 1, OSError: no room" in said


@pytest.mark.slow
def test_encoders_that_cannot_be_exported_are_left_to_the_first_process(embedded):
    _, said = embedded("export")
    assert all(f"rank {rank} has nothing" in said for rank in range(2))
