"""``train=True`` reaches every BatchNorm and Dropout of every entry; else a warning would say so, and fail the test."""

import jax

from tests.helpers.walk import walk


@walk
def test_training_reaches_every_layer(entry):
    module = entry.module()
    args, kwargs = entry.arguments(entry.structs(module))
    arrays = {name: value for name, value in kwargs.items() if hasattr(value, "shape")}
    flags = {name: value for name, value in kwargs.items() if name not in arrays}
    init = lambda args, arrays: module.init(jax.random.key(0), *args, **arrays, **flags, train=True)  # noqa: E731
    jax.eval_shape(init, args, arrays)
