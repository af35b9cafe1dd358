from dataclasses import replace

import pytest
import torch

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, MultiCropCollator, MultiCropTransform
from lejepa_hf.data.photometric import apply_photometric
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.evaluation.projections import extract_projections


@pytest.fixture(scope="module")
def digits() -> ImageSource:
    source = load_source("digits")
    return replace(source, dataset=source.dataset.select(range(23)))


def pretraining_model(backbone: dict) -> LeJEPAForPreTraining:
    torch.manual_seed(0)
    return LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, projector_dims=[16, 8]))


@pytest.mark.parametrize("num_local_views", [0, 3])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_projections_are_those_of_the_model(digits, tiny_resnet, num_local_views, batch_size):
    transform = MultiCropTransform(
        num_local_views=num_local_views, global_crop_size=16, local_crop_size=12, blur_kernel_size=5
    )
    collator, rows = (
        MultiCropCollator(transform),
        [{**row, "epoch": 0, "index": i} for i, row in enumerate(digits.dataset)],
    )
    model = pretraining_model(tiny_resnet).train()  # evaluation mode is not left to the caller
    found = extract_projections(model, rows, collator, batch_size)
    assert found.shape == (2 + num_local_views, 23, 8) and not found.requires_grad
    # As in training, in parts of about a batch of which none is small.
    parts = [rows] if batch_size == 100 else [rows[:6], rows[6:12], rows[12:18], rows[18:]]
    expected = [model.train()(**apply_photometric(collator(part), transform)).projections for part in parts]
    torch.testing.assert_close(found, torch.cat(expected, dim=1).detach(), atol=1e-5, rtol=1e-4)


def test_projections_of_a_half_precision_model_are_fp32(digits, tiny_resnet):
    collator = MultiCropCollator(MultiCropTransform(global_crop_size=16, local_crop_size=12, blur_kernel_size=5))
    projections = extract_projections(pretraining_model(tiny_resnet).bfloat16(), digits.dataset, collator)
    assert projections.dtype == torch.float32 and projections.isfinite().all()


def test_no_further_pass_begins_when_time_is_over(digits, tiny_resnet):
    collator = MultiCropCollator(MultiCropTransform(global_crop_size=16, local_crop_size=12, blur_kernel_size=5))
    model = pretraining_model(tiny_resnet)
    rows = [{**row, "epoch": 0, "index": i} for i, row in enumerate(digits.dataset)]
    whole = extract_projections(model, rows, collator, 5)
    assert torch.equal(extract_projections(model, rows, collator, 5, seconds=600), whole)
    assert torch.equal(extract_projections(model, rows, collator, 5, seconds=0), whole[:, :6])


def test_no_images_no_projections(tiny_resnet):
    with pytest.raises(ValueError, match="no images"):
        extract_projections(pretraining_model(tiny_resnet), [], MultiCropCollator())
