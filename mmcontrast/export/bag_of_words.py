"""A bag of words as a BERT of one layer, which is exact: transformers has no class for the mean of embeddings.

With zero queries and keys each token attends to all real ones alike, so that the first token's attention is the mean.
What stands in the way are BERT's own sums and norms, of which three tricks dispose:

- A norm divides by the standard deviation. Two coordinates hold a constant so great that the words do not move it.
- A residual adds the first token's own embedding. The mean is written into coordinates of its own, and the feed-forward
  net takes the others away: relu(x) - relu(-x) is x, exactly.
- The pooler ends in a tanh, which does nothing to small numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BertConfig

from mmcontrast.export.transformers_parts import LABEL_TOKENS, NEARLY_LINEAR, Part
from mmcontrast.export.transformers_pooling import linear, plain_norm
from mmcontrast.models.towers_bag_of_words import BagOfWordsTower

# The greatest word beside the constant, which is 1 on average: its square is what the first norm is wrong by.
_WORDS = 3e-4


def bag_of_words(tower: BagOfWordsTower, head: Tensor | None, pad_id: int) -> Part:
    """The tower as a `BertModel`, whose pooled output is (b, 2 * width + 2), with its head."""
    width, gain = tower.norm.normalized_shape[0], tower.norm.weight.detach()
    whole = 2 * width + 2  # words, their mean, and the constant
    centred = tower.embedding.weight.detach().double()
    centred = centred - centred.mean(dim=1, keepdim=True)  # the last norm does not see the difference
    scale = _WORDS / float(centred.square().mean(dim=1).max().sqrt().clamp(min=1e-12))
    config = BertConfig(
        vocab_size=tower.vocab_size,
        hidden_size=whole,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=2 * (width + 3),
        hidden_act="relu",
        max_position_embeddings=max(LABEL_TOKENS, tower.context_length),
        type_vocab_size=2,
        layer_norm_eps=tower.norm.eps * scale**2 * width / whole,
        pad_token_id=pad_id,
    )
    words = torch.zeros(tower.vocab_size, whole)
    words[:, :width] = centred * scale
    words[:, -2], words[:, -1] = (whole / 2) ** 0.5, -((whole / 2) ** 0.5)
    weights = {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": torch.zeros(config.max_position_embeddings, whole),
        "embeddings.token_type_embeddings.weight": torch.zeros(2, whole),
        **plain_norm("embeddings.LayerNorm", whole),
        **_attention(width, whole),
        **_feed_forward(width, whole),
        **_last_norm(gain, tower.norm.bias.detach(), whole),
        **linear("pooler.dense", NEARLY_LINEAR * torch.eye(whole)),
    }
    matrix = torch.eye(width) if head is None else head
    padded = torch.zeros(len(matrix), whole)
    padded[:, width : 2 * width] = matrix / NEARLY_LINEAR
    return Part(config, weights, padded)


def _attention(width: int, whole: int) -> dict[str, Tensor]:
    """The mean of all words, centred once more, goes to the coordinates behind the words."""
    value = torch.zeros(whole, whole)
    value[width : 2 * width, :width] = torch.eye(width) - 1 / width
    at = "encoder.layer.0.attention"
    return {
        **linear(f"{at}.self.query", torch.zeros(whole, whole)),
        **linear(f"{at}.self.key", torch.zeros(whole, whole)),
        **linear(f"{at}.self.value", value),
        **linear(f"{at}.output.dense", torch.eye(whole)),
        **plain_norm(f"{at}.output.LayerNorm", whole),
    }


def _feed_forward(width: int, whole: int) -> dict[str, Tensor]:
    """Takes away words and constant, and of the mean what rounding has added to all its coordinates alike."""
    rest = [*range(width), whole - 2, whole - 1]
    read, subtract = torch.zeros(width + 3, whole), torch.zeros(whole, width + 3)
    for row, place in enumerate(rest):
        read[row, place], subtract[place, row] = 1, -1
    read[-1, width : 2 * width], subtract[width : 2 * width, -1] = 1 / width, -1
    return {
        **linear("encoder.layer.0.intermediate.dense", torch.cat([read, -read])),
        **linear("encoder.layer.0.output.dense", torch.cat([subtract, -subtract], dim=1)),
    }


def _last_norm(gain: Tensor, bias: Tensor, whole: int) -> dict[str, Tensor]:
    width = len(gain)
    weight, offset = torch.zeros(whole), torch.zeros(whole)
    weight[width : 2 * width] = gain * (width / whole) ** 0.5  # the norm divides by the deviation of all coordinates
    offset[width : 2 * width] = bias
    name = "encoder.layer.0.output.LayerNorm"
    return {f"{name}.weight": weight, f"{name}.bias": offset}
