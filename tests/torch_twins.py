"""Networks written with PyTorch, each the twin of one of ours."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


def redraw(network, seed=0):
    """Other values than PyTorch's own, whose biases are zeros, scales ones and means zeros."""
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.dtype.is_floating_point:
                # Sums of fan_in products keep their size, so that deep outputs are neither 0 nor
                # infinite; variances are positive.
                size = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 4
                values = draw.normal(size=tensor.shape) / size**0.5
                if "var" in name:
                    values = 0.5 + np.abs(values)
                tensor.copy_(torch.tensor(values))
            else:
                tensor.fill_(7)
    return network.eval()


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(4 * 6 * 3, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        # 12 x 8 images: 3 x 2 positions of 6 channels are flattened.
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(),
            nn.Linear(7, 5),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x))


def vgg11(channels, features):
    """VGG 11 as torchvision orders it, with the widths of the stages."""
    layers, width = [], 3
    for channel, count in zip(channels, (1, 1, 2, 2, 2), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(width, channel, 3, padding=1), nn.ReLU()]
            width = channel
        layers.append(nn.MaxPool2d(2))
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    hidden, outputs = features
    network.classifier = nn.Sequential(
        nn.Linear(width * 4, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, outputs)
    )
    network.forward = lambda x: network.classifier(torch.flatten(network.features(x), 1))
    return network


class BasicBlock(nn.Module):
    """torchvision's block, and its names."""

    def __init__(self, width, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if width != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(width, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """torchvision's names, with the first convolution of CIFAR's form."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            width, channels = widths[stage - 1 : stage + 1]
            blocks = (
                BasicBlock(width, channels, 1 if stage == 1 else 2),
                BasicBlock(channels, channels, 1),
            )
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class Transformer(nn.Module):
    """A decoder of PyTorch's encoder layers under a causal mask."""

    def __init__(self, *, norm_first, tied=False):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.positions = nn.Parameter(torch.zeros(9, 8))
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=norm_first
        )
        last = nn.LayerNorm(8) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, 3, norm=last, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        mask = torch.triu(torch.ones(2 * tokens.shape[1:], dtype=bool), 1)
        return self.head(self.encoder(x, mask=mask))


class Recurrent(nn.Module):
    """Two recurrences and a layer on the last state."""

    def __init__(self, kind):
        super().__init__()
        self.first = kind(4, 6, batch_first=True)
        self.second = kind(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x)[0])[0][:, -1])
