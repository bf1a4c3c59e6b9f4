"""The input pipelines' common steps give what torch's operations, and PIL for uint8, give."""

import numpy as np
import pytest
from PIL import Image

from flax_attn.models import preprocess

SIZES = [((37, 53), (16, 20)), ((37, 53), (50, 71)), ((20, 31), (20, 12)), ((5, 7), (1, 1)), ((64, 48), (63, 40))]
modes = pytest.mark.parametrize("mode", ["bilinear", "bicubic"])


def drawn(h, w, dtype="uint8"):
    image = np.random.default_rng(0).integers(0, 256, (h, w, 3))
    return (image / 255 if dtype == "float64" else image).astype(dtype)


def nchw(torch, image):
    return torch.tensor(np.moveaxis(image, -1, 0))


@modes
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resizing_uint8_gives_pils_pixels(old, new, mode):
    image = drawn(*old)
    expected = Image.fromarray(image).resize(new[::-1], getattr(Image.Resampling, mode.upper()))
    got = preprocess.resize(image, new, mode)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


@modes
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resizing_floats_gives_torchs(old, new, mode):
    torch = pytest.importorskip("torch")
    from torch_ref.models import preprocess as twin

    image = drawn(*old, "float64")
    expected = twin.resize(nchw(torch, image), new, mode).movedim(0, -1)
    np.testing.assert_allclose(preprocess.resize(image, new, mode), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(300, 400), (401, 300), (256, 256), (224, 225)])
@modes
def test_the_imagenet_pipeline_is_torchs(size, mode):
    torch = pytest.importorskip("torch")
    from torch_ref.models import preprocess as twin

    image = drawn(*size, "float64")
    got = preprocess.imagenet(image, mode=mode)
    assert got.shape == (224, 224, 3)
    np.testing.assert_allclose(got, twin.imagenet(nchw(torch, image), mode=mode).movedim(0, -1), rtol=0, atol=1e-12)
    assert preprocess.imagenet(drawn(*size)).dtype == np.float32


def test_uint8_is_divided_by_255_and_floats_are_not():
    image = np.full((1, 1, 3), 255, np.uint8)
    ones = np.ones((1, 1, 3), np.float32)
    np.testing.assert_array_equal(preprocess.normalize(image), preprocess.normalize(ones))
    np.testing.assert_allclose(preprocess.normalize(image, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ones)


def test_a_crop_is_not_larger_than_the_image():
    with pytest.raises(
        ValueError, match=r"center_crop: expected at least 224 pixels a side, got shape \(223, 300, 3\)"
    ):
        preprocess.center_crop(drawn(223, 300), 224)
