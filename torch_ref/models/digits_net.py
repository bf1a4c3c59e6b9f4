"""A small classifier of 8x8 digits: the network of the trained checkpoint that this package carries."""

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d, Module, ReLU, Sequential

from torch_ref.blocks.non_local import NONLocalBlock2D
from torch_ref.blocks.se import SELayer


class DigitsNet(Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = Sequential(Conv2d(1, 24, 3, padding=1), BatchNorm2d(24), ReLU())
        self.nl = NONLocalBlock2D(24, sub_sample=False)
        self.conv2 = Sequential(Conv2d(24, 48, 3, padding=1), BatchNorm2d(48), ReLU(), MaxPool2d(2))
        self.se = SELayer(48, 8)
        self.fc = Sequential(Dropout(0.3), Linear(48 * 4 * 4, num_classes))

    def forward(self, x: Tensor, return_nl_map=False) -> Tensor | tuple[Tensor, Tensor]:
        x, nl_map = self.nl(self.conv1(x), return_nl_map=True)
        x = self.se(self.conv2(x))
        logits = self.fc(x.flatten(1))
        return (logits, nl_map) if return_nl_map else logits


def preprocess(digits: Tensor) -> Tensor:
    return digits / 16
