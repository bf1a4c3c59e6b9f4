"""A reader of licence plates in PyTorch: it straightens the plate, then reads one character for each position."""

import torch
from torch import nn
from torch.nn import functional


class ConvBlock(nn.Sequential):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
        )


class Straighten(nn.Module):
    """Finds an affine map of the plate, and samples the image there."""

    def __init__(self, channels):
        super().__init__()
        self.features = nn.Sequential(ConvBlock(3, channels, 2), nn.MaxPool2d(2), ConvBlock(channels, channels))
        self.pool = nn.AdaptiveAvgPool2d((2, 3))
        self.fc1 = nn.Linear(channels * 6, 10)
        self.act = nn.PReLU()
        self.fc2 = nn.Linear(10, 6)
        nn.init.zeros_(self.fc2.weight)
        self.fc2.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, x):
        y = self.pool(self.features(x)).flatten(1)
        theta = self.fc2(self.act(self.fc1(y))).view(-1, 2, 3)
        grid = functional.affine_grid(theta, x.shape, align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False), theta


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels, reduction):
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class PlateReader(nn.Module):
    def __init__(self, classes=11, positions=5, width=8, dropout=0.2):
        super().__init__()
        self.positions = positions
        self.straighten = Straighten(4)
        self.stem = ConvBlock(3, width, 2)
        self.body = ConvBlock(width, width)
        self.gate = Gate(width, 4)
        self.tail = ConvBlock(width, 2 * width)
        self.drop = nn.Dropout2d(dropout)
        self.lstm = nn.LSTM(2 * width, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        x, theta = self.straighten(x)
        x = self.stem(x)
        x = x + self.gate(self.body(x))
        x = self.drop(self.tail(functional.max_pool2d(x, (2, 1))))
        x = x.mean(2).transpose(1, 2)
        x, _ = self.lstm(x)
        x = functional.adaptive_avg_pool1d(x.transpose(1, 2), self.positions).transpose(1, 2)
        return {"logits": self.head(x), "theta": theta}
