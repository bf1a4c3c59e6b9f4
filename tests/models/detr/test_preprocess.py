"""DETR's input pipeline: upstream's sizes, the twin's pixels, padding and mask."""

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from flax_attn.models.detr import preprocess as ours
from flax_attn.models.preprocess import normalize
from tests.helpers.layer import check_refusal
from tests.helpers.tolerances import assert_close
from torch_ref.models.detr import boxes as torch_boxes
from torch_ref.models.detr import preprocess as theirs

SIZES = {
    (480, 640): (800, 1066),
    (640, 480): (1066, 800),
    (427, 640): (800, 1199),
    (640, 368): (1332, 766),  # 766.475 is rounded down, and then 640 . 766 / 368 = 1332.17
    (375, 1000): (500, 1333),  # 499.875 is rounded up, and then 1000 . 500 / 375 = 1333.33 down
    (20, 1000): (27, 1350),
    (612, 612): (800, 800),
    (800, 1000): (800, 1000),
    (1200, 800): (1200, 800),
    (1333, 500): (1333, 500),
}


def draw(h, w, seed=0, dtype=np.float64):
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3))
    return image.astype(dtype) if dtype == np.uint8 else (image / 255).astype(dtype)


def tensor(image):
    return torch.tensor(np.moveaxis(image, -1, 0))


@pytest.mark.parametrize(("old", "new"), SIZES.items())
def test_sizes_are_upstreams(old, new):
    assert ours.resized_size(*old) == new
    assert theirs.resized_size(*old) == new


def test_sizes_for_all_images_are_the_twins():
    for h in range(1, 60):
        for w in range(1, 60):
            for limit in (None, 33):
                got = ours.resized_size(h, w, 20, limit)
                assert got == theirs.resized_size(h, w, 20, limit)
                assert limit is None or max(got) <= limit + max(h / w, w / h) / 2
                assert limit is None or max(got) <= limit or max(h, w) > 2 * min(h, w)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (32, 33)),
        ({"pad_size": (33, 40)}, (33, 40)),
        ({"multiple": 16}, (32, 48)),
        ({"pad_size": (33, 33), "multiple": 32}, (64, 64)),
    ],
)
def test_batch_and_mask_are_the_twins(options, size):
    images = [draw(15, 20, 0), draw(40, 21, 1), draw(8, 30, 2), draw(20, 20, 3)]
    batch, mask = ours.preprocess(images, 20, 33, **options)
    expected, expected_mask = theirs.preprocess(list(map(tensor, images)), 20, 33, **options)
    assert_close(batch, expected.movedim(1, -1))
    np.testing.assert_array_equal(mask, expected_mask)
    assert (batch[mask] == 0).all()
    assert [(~m).sum() for m in mask] == [20 * 26, 32 * 17, 9 * 33, 20 * 20]
    assert mask.shape[1:] == size


def test_uint8_images_are_resized_as_pil_does():
    image = draw(37, 53, dtype=np.uint8)
    batch, mask = ours.preprocess([image], 20, 33)
    resized = np.asarray(Image.fromarray(image).resize((28, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch[0], normalize(resized))
    assert batch.dtype == np.float32
    assert not mask.any()


def test_boxes_are_relative_to_their_image():
    boxes = np.array([[10.0, 20.0, 30.0, 50.0], [0, 0, 200, 100]])
    got = ours.normalize_boxes(boxes, (100, 200))
    assert_close(got, [[0.1, 0.35, 0.1, 0.3], [0.5, 0.5, 1, 1]])
    assert_close(got, theirs.normalize_boxes(torch.tensor(boxes), (100, 200)))
    assert_close(torch_boxes.box_cxcywh_to_xyxy(torch.tensor(got)) * torch.tensor([200, 100] * 2), boxes)
    assert ours.normalize_boxes(boxes.astype(int), (100, 200)).dtype == np.float64
    assert ours.normalize_boxes(np.zeros((0, 4), np.float32), (100, 200)).shape == (0, 4)


def test_batches_that_do_not_fit_are_refused():
    check_refusal(
        lambda: ours.nested_batch([draw(5, 7), draw(6, 4)], (5, 9)),
        r"nested_batch: expected images of at most \(5, 9\), got \(6, 7\)",
        lambda: theirs.nested_batch([tensor(draw(5, 7)), tensor(draw(6, 4))], (5, 9)),
    )
    check_refusal(
        lambda: ours.nested_batch([]),
        "nested_batch: expected at least one image, got none",
        lambda: theirs.nested_batch([]),
    )
