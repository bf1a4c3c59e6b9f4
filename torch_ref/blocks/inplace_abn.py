"""In-Place Activated BatchNorm - Rota Bulo, Porzi, Kontschieder 2018, https://arxiv.org/abs/1712.02616"""

from torch import Tensor
from torch.nn import BatchNorm2d
from torch.nn.functional import batch_norm, leaky_relu, relu


class ABN(BatchNorm2d):
    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        track_running_stats=True,
        activation="leaky_relu",
        activation_param=0.01,
    ):
        super().__init__(num_features, eps, momentum, affine=affine, track_running_stats=track_running_stats)
        if activation not in ("leaky_relu", "relu", "identity"):
            expected = f"{type(self).__name__}: expected activation 'leaky_relu', 'relu' or 'identity'"
            raise ValueError(f"{expected}, got {activation!r}")
        self.activation = activation
        self.activation_param = activation_param

    def forward(self, x: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var)
        y = batch_norm(x, *statistics, self.gain(), self.bias, self.training, self.momentum, self.eps)
        if self.activation == "relu":
            return relu(y)
        return y if self.activation == "identity" else leaky_relu(y, self.activation_param)

    def gain(self):
        return self.weight


class InPlaceABN(ABN):
    def gain(self):
        return self.weight.abs() + self.eps
