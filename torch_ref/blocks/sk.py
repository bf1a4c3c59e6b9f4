"""Selective Kernel Networks - Li, Wang, Hu, Yang 2019, https://arxiv.org/abs/1903.06586"""

from torch import Tensor, softmax
from torch.nn import Conv2d
from torch.nn.functional import relu

from torch_ref.blocks.resnet import Bottleneck, add_shortcut


class SKBottleneck(Bottleneck):
    def setup(self):
        got = (self.groups, self.base_width)
        if got != (1, 64):
            raise ValueError(f"SKBottleneck: expected groups, base_width = 1, 64, got {got[0]}, {got[1]}")
        planes, d = self.planes, self.dilation
        self.conv1 = Conv2d(self.inplanes, planes, 1, bias=False)
        self.bn1 = self.norm(planes)
        self.conv2 = Conv2d(planes, planes, 3, stride=self.stride, padding=d, dilation=d, bias=False)
        self.bn2 = self.norm(planes)
        self.conv2g = Conv2d(planes, planes, 3, stride=self.stride, padding=d, dilation=d, groups=32, bias=False)
        self.bn2g = self.norm(planes)
        self.conv3 = Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = self.norm(planes * self.expansion)

    def setup_last(self):
        planes, hidden = self.planes, self.planes // 16
        self.conv_fc1 = Conv2d(planes, hidden, 1, bias=False)
        self.bn_fc1 = self.norm(hidden)
        self.conv_fc2 = Conv2d(hidden, 2 * planes, 1, bias=False)

    def select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = relu(self.bn1(self.conv1(x)))
        a = relu(self.bn2(self.conv2(y)))
        b = relu(self.bn2g(self.conv2g(y)))
        hidden = relu(self.bn_fc1(self.conv_fc1((a + b).mean((2, 3), keepdim=True))))
        share = softmax(self.conv_fc2(hidden).reshape(x.shape[0], 2, -1, 1, 1), 1)
        return a * share[:, 0] + b * share[:, 1], share[..., 0, 0]

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        y, share = self.select(x)
        y = relu(add_shortcut(self, self.bn3(self.conv3(y)), x))
        return (y, share) if attention_weights else y
