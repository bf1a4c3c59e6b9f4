"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025"""

from torch import Tensor
from torch.nn import Conv2d, Dropout, Dropout2d, Linear
from torch.nn.functional import log_softmax, max_pool2d, relu

from torch_ref.blocks.spatial_transformer import SpatialTransformer, pixels
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import mnist


class SpatialTransformerNet(SpatialTransformer):
    def __init__(
        self,
        in_channels=1,
        size=(28, 28),
        channels=(8, 10),
        kernel_sizes=(7, 5),
        pools=(2, 2),
        hidden=32,
        align_corners=False,
        num_classes=10,
    ):
        self.num_classes = num_classes
        super().__init__(
            in_channels,
            size,
            channels,
            kernel_sizes=kernel_sizes,
            pools=pools,
            hidden=hidden,
            align_corners=align_corners,
        )

    def setup(self):
        self.conv1 = Conv2d(self.in_channels, 10, 5)
        self.conv2 = Conv2d(10, 20, 5)
        self.conv2_drop = Dropout2d()
        self.fc1 = Linear(20 * pixels(self.size, (5, 5), (2, 2)), 50)
        self.fc1_drop = Dropout()
        self.fc2 = Linear(50, self.num_classes)
        super().setup()

    def stn(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stn(x)
        x = relu(max_pool2d(self.conv1(x), 2))
        x = relu(max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = self.fc1_drop(relu(self.fc1(x.flatten(1))))
        return log_softmax(self.fc2(x), -1)


preprocess = mnist


@constructor(SpatialTransformerNet, preprocess)
def spatial_transformer_net(): ...
