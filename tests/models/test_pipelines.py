"""Every published network has an input pipeline that gives what the network takes, with the numbers of its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.catalog import PUBLISHED, preprocess_of
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import entries, walk_published


def draw(entry, dtype):
    """A random image of the size of the example input, or a list of one where images of several sizes are taken."""
    (shape, *_) = [struct.shape[1:] for struct in entry.structs(entry.cls())]
    image = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    return image if dtype == "uint8" else image / 255


def run(entry, image):
    """What the pipeline gives for one image: a batch of one for the network, and the same from the twin."""
    several = entry.name.startswith("detr_")
    out = entry.preprocess([image])[0] if several else entry.preprocess(image)[None]
    return out, several


FIRST = {(entry.preprocess, type(entry.module())): entry for entry in reversed(PUBLISHED)}.values()


@entries(PUBLISHED, slow=lambda entry: entry not in FIRST)
def test_a_pipeline_gives_what_the_network_takes(entry):
    batch, _ = run(entry, draw(entry, "uint8"))
    assert batch.dtype == np.float32
    module = entry.cls()
    others = [jnp.zeros(struct.shape, struct.dtype) for struct in entry.structs(module)[1:]]
    args, call = entry.arguments([jnp.asarray(batch), *others])
    jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **call))


@walk_published
def test_a_pipeline_gives_the_numbers_of_its_twin(entry):
    torch = pytest.importorskip("torch")
    from torch_ref.twins import twin

    image = draw(entry, "uint8" if entry.preprocess.__module__.endswith("ccnet") else "float64")
    ours, several = run(entry, image)
    nchw = torch.tensor(np.moveaxis(image, -1, 0))
    theirs = twin(entry.preprocess)([nchw])[0] if several else twin(entry.preprocess)(nchw)[None]
    assert_close(ours, np.moveaxis(theirs.numpy(), 1, -1), "float64" if theirs.dtype == torch.float64 else "float32")


def test_a_pipeline_is_found_by_the_name_of_the_constructor():
    assert all(preprocess_of(entry.cls.__name__) is entry.preprocess for entry in PUBLISHED)
    with pytest.raises(ValueError, match="no published network is called 'resnet19'; `flax-attn-convert models` lists"):
        preprocess_of("resnet19")
