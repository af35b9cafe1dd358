import torch

from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols.linear_dinov2 import LEARNING_RATES, LinearDinov2


def test_dinov2s_features_and_rates(vit, resnet, processor):
    extractor, pixels = FeatureExtractor(vit, processor), torch.randn(2, 3, 16, 16)
    outputs = vit(pixels, output_hidden_states=True)
    tokens = [vit.layernorm(state)[:, 0] for state in outputs.hidden_states[-4:]]
    expected = torch.cat([*tokens, outputs.last_hidden_state[:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(LinearDinov2().features(extractor, pixels), expected)
    candidates = LinearDinov2().candidates(extractor, pixels, num_classes=3, batch_size=128)
    assert len(candidates) == 4 * 13 and candidates[0].learning_rate == LEARNING_RATES[0] / 2
    heads = [candidate.make() for candidate in candidates[::13]]
    assert [(head.first, head.last) for head in heads] == [(36, 48), (36, 60), (0, 48), (0, 60)]
    assert candidates[-1].name == "4 blocks, with patches, learning rate 0.1"
    alone = LinearDinov2().candidates(FeatureExtractor(resnet, processor), pixels, 3, 256)
    assert len(alone) == 13 and alone[0].name.startswith("mean of the patches")
