"""torch's MultiheadAttention with linear layers that are really called, so that adapters on them do something."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SplitAttention(nn.Module):
    """The same self-attention as the module it is made from, of which it takes the weights over.

    `nn.MultiheadAttention` keeps the weights of queries, keys and values as a bare parameter, and reads the weight of
    its `out_proj` without calling it: an adapter there would never run. open_clip's towers are made of them.

    Attributes:
        in_proj: width to 3 * width.
        out_proj: width to width.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.original = type(attention)
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        self.in_proj = nn.Linear(self.embed_dim, 3 * self.embed_dim, attention.in_proj_bias is not None, "meta")
        self.out_proj = nn.Linear(self.embed_dim, self.embed_dim, attention.out_proj.bias is not None, "meta")
        self.in_proj.weight, self.out_proj.weight = attention.in_proj_weight, attention.out_proj.weight
        self.in_proj.bias, self.out_proj.bias = attention.in_proj_bias, attention.out_proj.bias
        self.train(attention.training)

    @staticmethod
    def fits(attention: nn.Module) -> bool:
        """Whether it is of the kind that can be replaced."""
        return (
            isinstance(attention, nn.MultiheadAttention)
            and attention.in_proj_weight is not None
            and attention.bias_k is None
            and not attention.add_zero_attn
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """As `nn.MultiheadAttention` without key_padding_mask: (b, t, width), or (t, b, width) if not batch_first.

        Args:
            query, key, value: the same tensor.
            need_weights: must be False.
            attn_mask: (t, t) or (b * heads, t, t), added to the logits; or True where attention is forbidden.
        """
        assert query is key is value
        assert not need_weights
        x = query if self.batch_first else query.transpose(0, 1)
        batch, length, width = x.shape
        q, k, v = self.in_proj(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        if attn_mask is not None:
            attn_mask = attn_mask.logical_not() if attn_mask.dtype == torch.bool else attn_mask.to(q.dtype)
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.view(batch, self.num_heads, length, length)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return (output if self.batch_first else output.transpose(0, 1)), None

    def joined(self) -> nn.MultiheadAttention:
        """The module that it was made from, with its weights as they are now."""
        bias = self.in_proj.bias is not None
        with torch.device("meta"):
            module = self.original(
                self.embed_dim, self.num_heads, dropout=self.dropout, bias=bias, batch_first=self.batch_first
            )
        module.in_proj_weight, module.in_proj_bias = self.in_proj.weight, self.in_proj.bias  # type: ignore[assignment]
        module.out_proj.weight, module.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        return module.train(self.training)
