"""Small networks of several architectures, trained on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

Weights = dict[str, Tensor]


class ResidualBlock(nn.Module):
    """Two convolutions with a normalisation of the given kind behind each."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), norm(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x))
        return x + self.norm2(self.conv2(functional.silu(y)))


class TransformerBlock(nn.Module):
    """Attention and a gated feed-forward layer, as in Llama."""

    def __init__(self, width: int, hidden: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.o_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate_proj, self.up_proj = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.down_proj = nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.o_proj(attended.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        return x + self.down_proj(functional.silu(self.gate_proj(y)) * self.up_proj(y))


class Transformer(nn.Module):
    """Rows of pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.layers = nn.Sequential(*(TransformerBlock(32, 96) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x.view(-1, 8, 8))).mean(1))


def plain() -> nn.Module:
    """Return a network of three linear layers."""
    first, second = nn.Linear(64, 128), nn.Linear(128, 128)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(128, 10))


def convolutional(norm: Callable[[int], nn.Module], channels: int = 32) -> nn.Module:
    """Return a network of two residual blocks."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, channels, 3, padding=1),
        ResidualBlock(channels, norm),
        ResidualBlock(channels, norm),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 10),
    )


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "batch norm": lambda: convolutional(nn.BatchNorm2d),
    "group norm": lambda: convolutional(lambda channels: nn.GroupNorm(8, channels)),
    "transformer": Transformer,
}
