"""Small networks that score a sequence of hidden states by one logit.

All work in their own precision (float32, if nobody casts them) whatever the policy's, and look only at the positions of
`mask`. Linear layers outside the transformer blocks are spectrally normalised (arXiv 1802.05957); weights start
Xavier-uniform, biases at zero.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

POWER_ITERATIONS = 100  # at the start: 0.6 % off at 512×512, where torch's own 15 leave up to 3 %


class TransformerDiscriminator(nn.Module):
    """GANPO's: projection, position, pre-norm transformer, masked mean, head."""

    def __init__(
        self,
        hidden_size: int,
        *,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        max_positions: int,
    ) -> None:
        super().__init__()
        self.project = spectral_linear(hidden_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(max_positions, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        self.head = score_head(width)

    def forward(self, hidden: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, " b"]:
        length, limit = hidden.shape[1], len(self.positions)
        if length > limit:
            raise ValueError(
                f"a sequence of {length} tokens exceeds the discriminator's {limit} positions; "
                f"raise latent.max_positions or shorten the data"
            )
        rows = Rows(mask)
        with torch.autocast(hidden.device.type, enabled=False):
            positions = rows.take(self.positions[:length].expand(len(mask), -1, -1))
            tokens = self.project(rows.take(hidden).to(self.positions.dtype)) + positions
            for layer in self.layers:
                tokens = layer(tokens, rows)
            scores: Tensor = self.head(masked_mean(rows.put(tokens), mask))
        return scores.squeeze(-1)


class Rows:
    """Tokens without the padding between them: on a CPU none is computed that nobody reads.

    On a GPU they stay padded: to count them it would have to stop, and it computes them side by side anyway.
    """

    def __init__(self, mask: Bool[Tensor, "b t"]) -> None:
        self.mask = mask
        self._places = None if mask.is_cuda else mask.flatten().nonzero().squeeze(-1)

    def take(self, padded: Float[Tensor, "b t d"]) -> Float[Tensor, "*n d"]:
        return padded if self._places is None else padded.flatten(0, 1)[self._places]

    def put(self, tokens: Float[Tensor, "*n d"]) -> Float[Tensor, "b t d"]:
        """Zeros between them."""
        if self._places is None:
            return tokens
        size = tokens.shape[-1]
        padded = tokens.new_zeros(self.mask.numel(), size).index_copy(0, self._places, tokens)
        return padded.view(*self.mask.shape, size)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer with GELU, as `nn.TransformerEncoderLayer` (tested to equal it) without padding."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_in, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        for layer in (self.attention_in, self.attention_out, self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Float[Tensor, "*n d"], rows: Rows) -> Float[Tensor, "*n d"]:
        tokens = tokens + self._drop(self.attention_out(self._attend(self.attention_norm(tokens), rows)))
        return tokens + self._drop(self.outer(self._drop(F.gelu(self.inner(self.norm(tokens))))))

    def _attend(self, tokens: Float[Tensor, "*n d"], rows: Rows) -> Float[Tensor, "*n d"]:
        padded = rows.put(self.attention_in(tokens)).view(*rows.mask.shape, 3, self.heads, -1)
        query, key, value = padded.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = rows.mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return rows.take(attended.transpose(1, 2).flatten(2))

    def _drop(self, values: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return F.dropout(values, self.dropout, self.training)


class MLPDiscriminator(nn.Module):
    """The same without the transformer: each token on its own. The paper names an MLP and does not spell it out."""

    def __init__(self, hidden_size: int, *, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(spectral_linear(hidden_size, width), nn.GELU())
        self.head = score_head(width)

    def forward(self, hidden: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, " b"]:
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = next(self.parameters()).dtype
            scores: Tensor = self.head(masked_mean(self.project(hidden.to(dtype)), mask))
        return scores.squeeze(-1)


def masked_mean(values: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """The mean over the positions that count."""
    return torch.einsum("btd,bt->bd", values, mask / mask.sum(-1, keepdim=True))


def score_head(width: int) -> nn.Sequential:
    return nn.Sequential(spectral_linear(width, width), nn.GELU(), spectral_linear(width, 1))


def spectral_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose largest singular value is kept at 1."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    spectral_norm(layer)
    iterate_power(layer, POWER_ITERATIONS)
    return layer


@torch.no_grad()
def iterate_power(net: nn.Module, times: int = 1) -> None:
    """Bring the singular vectors of every spectrally normalised layer closer to those of its weights.

    Once an update, and not at each use as torch does it, so that an update in parts is the update of the whole.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            weight: Any = module.parametrizations["weight"]  # type: ignore[index]
            norm = weight[0]
            norm.n_power_iterations = 0
            norm._power_method(norm._reshape_weight_to_matrix(weight.original), times)
