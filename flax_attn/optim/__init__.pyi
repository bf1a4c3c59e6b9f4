"""The public names, and the file of each. `flax_attn/optim/__init__.py` reads this list, and so do type checkers."""

from .optimizers.adadelta import adadelta as adadelta
from .optimizers.adagrad import adagrad as adagrad
from .optimizers.adam import adam as adam, adamw as adamw
from .optimizers.adamax import adamax as adamax
from .optimizers.nadam import nadam as nadam
from .optimizers.radam import radam as radam
from .optimizers.rmsprop import rmsprop as rmsprop
from .optimizers.sgd import sgd as sgd
