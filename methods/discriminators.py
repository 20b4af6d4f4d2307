"""Small networks that score a sequence of hidden states by one logit.

All work in their own precision (float32, if nobody casts them) whatever the policy's, and look only at the positions of
`mask`. Linear layers outside the transformer blocks are spectrally normalised (arXiv 1802.05957); weights start
Xavier-uniform, biases at zero.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
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
        block = nn.TransformerEncoderLayer(
            width, heads, feed_forward, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        for name, parameter in self.encoder.named_parameters():  # nn.TransformerEncoder starts with equal layers
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.head = score_head(width)

    def forward(self, hidden: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, " b"]:
        length, limit = hidden.shape[1], len(self.positions)
        if length > limit:
            raise ValueError(
                f"a sequence of {length} tokens exceeds the discriminator's {limit} positions; "
                f"raise latent.max_positions or shorten the data"
            )
        with torch.autocast(hidden.device.type, enabled=False):
            embedded = self.project(hidden.to(self.positions.dtype)) + self.positions[:length]
            scores: Tensor = self.head(masked_mean(self.encoder(embedded, src_key_padding_mask=~mask), mask))
        return scores.squeeze(-1)


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
    with torch.no_grad():
        for _ in range(POWER_ITERATIONS):  # each use in training mode is one power iteration
            layer(torch.zeros(1, inputs))
    return layer
