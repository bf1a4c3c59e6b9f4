"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971"""

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d, Module, ReLU, Sequential

from torch_ref.blocks.non_local import NONLocalBlock2D
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import rescale


def stage(inputs: int, outputs: int) -> Sequential:
    return Sequential(Conv2d(inputs, outputs, 3, padding=1), BatchNorm2d(outputs), ReLU(), MaxPool2d(2))


class NonLocalNet(Module):
    def __init__(self):
        super().__init__()
        self.conv_1 = stage(1, 32)
        self.nl_1 = NONLocalBlock2D(32)
        self.conv_2 = stage(32, 64)
        self.nl_2 = NONLocalBlock2D(64)
        self.conv_3 = stage(64, 128)
        self.fc = Sequential(Linear(128 * 3 * 3, 256), ReLU(), Dropout(0.5), Linear(256, 10))

    def forward(self, x: Tensor, return_nl_map=False) -> Tensor | tuple[Tensor, list[Tensor]]:
        x, nl_map_1 = self.nl_1(self.conv_1(x), return_nl_map=True)
        x, nl_map_2 = self.nl_2(self.conv_2(x), return_nl_map=True)
        logits = self.fc(self.conv_3(x).flatten(1))
        return (logits, [nl_map_1, nl_map_2]) if return_nl_map else logits


preprocess = rescale


@constructor(NonLocalNet, preprocess)
def non_local_net(): ...
