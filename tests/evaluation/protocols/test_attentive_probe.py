import torch

from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols.attentive_probe import Attentive


def test_attention_pools_what_pytorchs_own_layer_does(vit, processor):
    torch.manual_seed(0)
    (candidate, *_) = Attentive().candidates(FeatureExtractor(vit, processor), torch.randn(1, 3, 16, 16), 3, 256)
    head, tokens = candidate.make(), torch.randn(4, 7, 12)
    reference = torch.nn.MultiheadAttention(12, head.num_heads, batch_first=True)
    keys, values = zip(*(part.chunk(2) for part in (head.of_tokens.weight, head.of_tokens.bias)), strict=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([head.of_query.weight, keys[0], values[0]]))
        reference.in_proj_bias.copy_(torch.cat([head.of_query.bias, keys[1], values[1]]))
        reference.out_proj.weight.copy_(head.out.weight)
        reference.out_proj.bias.copy_(head.out.bias)
        query, normed = head.query.expand(4, -1, -1), head.norm_of_tokens(tokens)
        pooled = query + reference(query, normed, normed)[0]
        pooled = pooled + head.mlp(head.norm_of_mlp(pooled))
        torch.testing.assert_close(head(tokens), head.classes(head.norm(pooled[:, 0])))
