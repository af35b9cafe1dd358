from dataclasses import replace

import pytest
import torch

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.baselines import AVERAGED, ENCODER, PIXELS, UNTRAINED, table_columns
from lejepa_hf.evaluation.embeddings.raw_pixels import raw_pixels
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def folder(tiny_resnet, tmp_path):
    torch.manual_seed(5)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
    return export_encoder(model, tmp_path / "encoder", build_processor(16, crop_ratio=1.0))


def test_nothing_is_loaded_before_its_turn(tmp_path, folder):
    columns = table_columns(folder, tmp_path / "not written yet")
    assert list(columns) == [ENCODER, AVERAGED, UNTRAINED, PIXELS]
    with pytest.raises(ValueError, match="not written yet"):
        columns[AVERAGED]()
    assert list(table_columns("no such folder")) == [ENCODER, UNTRAINED, PIXELS]


def test_each_column_embeds_in_its_own_way(folder):
    source = load_source("digits", "test")
    few = replace(source, dataset=source.dataset.select(range(20)))
    found = {name: prepare()(few).embeddings for name, prepare in table_columns(folder).items()}
    assert torch.equal(found[PIXELS], raw_pixels(few).embeddings)
    assert found[ENCODER].shape == found[UNTRAINED].shape == (20, 16)
    assert not torch.equal(found[ENCODER], found[UNTRAINED])
