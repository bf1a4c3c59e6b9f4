"""OpenMMLab's networks against PyTorch modules with the same names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import from_torch, plan, to_torch, translate
from convert.dialects import find_dialect
from convert.recognition import recognise
from convert.rules import dropped
from convert.tensors import Lazy
from flax_attn import ABN, Bottleneck, DANetHead, EmbeddedGaussianNonLocalBlock, RCCAModule, ResNet, Transformer
from flax_attn.layers import BatchNorm2d, Conv2d, Dropout2d, Module, ModuleList, Sequential, relu
from tests.catalog.test_golden import golden
from tests.convert.test_dialects import conv_module, random_state, run, same_bits, scale, shapes, torch_module

CLASSES, WIDTH, INNER = 5, 512, 128
X = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float64)


def conv(inputs, outputs):
    return Sequential([Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm2d(outputs), relu])


class NLHead(Module):
    """mmseg's NLHead, of parts that are here."""

    def setup(self):
        self.convs = ModuleList([conv(WIDTH, INNER), conv(INNER, INNER)])
        self.nl_block = EmbeddedGaussianNonLocalBlock(INNER, dimension=2, sub_sample=False)
        self.conv_cat, self.conv_seg = conv(WIDTH + INNER, INNER), Conv2d(INNER, CLASSES, 1)

    def __call__(self, x, train=False):
        first, second = self.convs
        y = second(self.nl_block(first(x, train), train=train), train)
        return self.conv_seg(self.conv_cat(jnp.concatenate([x, y], -1), train))


class Network(Module):
    """The three parts of a network of mmseg, as ``convert.dialects.mmseg`` describes them."""

    decode_head: Module
    call: dict

    def setup(self):
        dilated = (False, True, True)
        self.backbone = ResNet(Bottleneck, (1, 1), 0, stem_width=32, replace_stride_with_dilation=dilated)
        first = Conv2d(WIDTH // 2, INNER // 2, 3, padding=1, bias=False)
        norm, last = ABN(INNER // 2, activation="relu"), Conv2d(INNER // 2, CLASSES, 1)
        self.auxiliary_head = Sequential([first, norm, Dropout2d(0.1), last])

    def __call__(self, x, train=False):
        auxiliary, last = self.backbone.features(x, train)
        return self.decode_head(last, train=train, **self.call), self.auxiliary_head(auxiliary, train)


NETWORKS = {
    "mmseg_danet": partial(Network, DANetHead(WIDTH, CLASSES), {}),
    "mmseg_ccnet": partial(
        Network, RCCAModule(WIDTH, INNER, CLASSES, inplace_abn=False, activation="relu"), dict(recurrence=2)
    ),
    "mmseg_nonlocal": partial(Network, NLHead(), {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_file_of_mmseg_fits_three_parts(name):
    state = random_state(shapes(name))
    dialect = "mmseg_nonlocal" if name == "mmseg_nonlocal" else "mmseg"
    mapping = plan(NETWORKS[name](), X)
    same_bits(mapping.to_torch(mapping.from_torch(state, "auto"), dialect), state)


def backbone(torch):
    """A small ResNetV1c, with mmseg's names in its state dict."""
    from torch_ref.blocks.resnet import Bottleneck
    from torch_ref.models.resnet import ResNet

    net = ResNet(Bottleneck, (1, 1), 0, stem_width=32, replace_stride_with_dilation=(False, True, True))
    torch_module(net)

    def theirs(key):
        key = key.replace("bn1.", "stem.7.") if key.startswith("bn1.") else key
        return key.replace("conv1.", "stem.") if key.startswith("conv1.") else key

    return net, {f"backbone.{theirs(key)}": value for key, value in net.state_dict().items()}


def fcn_head(torch):
    head = torch.nn.Module()
    head.convs = torch.nn.ModuleList([conv_module(torch, WIDTH, INNER), conv_module(torch, INNER, INNER)])
    head.conv_cat, head.conv_seg = conv_module(torch, WIDTH + INNER, INNER), torch.nn.Conv2d(INNER, CLASSES, 1)
    return head


def nl_head(torch):
    """An NLHead with use_scale=True, and its function."""
    head = fcn_head(torch)
    head.nl_block = torch.nn.Module()
    for part in ("g", "theta", "phi"):
        setattr(head.nl_block, part, conv_module(torch, INNER, INNER // 2, 1, bn=False))
    head.nl_block.conv_out = conv_module(torch, INNER // 2, INNER, 1)
    torch_module(head)

    def between(y):
        g, theta, phi = (getattr(head.nl_block, part).conv(y).flatten(2) for part in ("g", "theta", "phi"))
        weights = (theta.mT @ phi / theta.shape[1] ** 0.5).softmax(-1)
        out = head.nl_block.conv_out
        return y + out.bn(out.conv((g @ weights.mT).view(*y.shape[:1], -1, *y.shape[2:])))

    return head, between


def cc_head(torch):
    """A CCHead, and its function."""
    from torch_ref.blocks.criss_cross import criss_cross_attention

    head = fcn_head(torch)
    head.cca = torch.nn.Module()
    for part, width in (("query", INNER // 8), ("key", INNER // 8), ("value", INNER)):
        setattr(head.cca, f"{part}_conv", torch.nn.Conv2d(INNER, width, 1))
    head.cca.gamma = scale(torch)
    torch_module(head)
    head.cca.gamma.scale.data.fill_(0.7)

    def between(y):
        for _ in range(2):
            projected = head.cca.query_conv(y), head.cca.key_conv(y), head.cca.value_conv(y)
            y = head.cca.gamma.scale * criss_cross_attention(*projected)[0] + y
        return y

    return head, between


@pytest.mark.parametrize(("name", "make"), [("mmseg_ccnet", cc_head), ("mmseg_nonlocal", nl_head)])
def test_a_whole_network_of_mmseg_gives_our_numbers(name, make):
    torch = pytest.importorskip("torch")
    stages, state = backbone(torch)
    head, between = make(torch)
    auxiliary = torch.nn.Module()
    auxiliary.convs = torch.nn.ModuleList([conv_module(torch, WIDTH // 2, INNER // 2)])
    auxiliary.conv_seg = torch.nn.Conv2d(INNER // 2, CLASSES, 1)
    torch_module(auxiliary)
    state |= {f"decode_head.{key}": value for key, value in head.state_dict().items()}
    state |= {f"auxiliary_head.{key}": value for key, value in auxiliary.state_dict().items()}
    assert {k for k in state if not dropped(k)} == {k for k in shapes(name) if not dropped(k)}
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        first, last = stages.features(x)
        y = run(head.convs[1], between(run(head.convs[0], last)))
        expected = head.conv_seg(run(head.conv_cat, torch.cat([last, y], 1)))
        expected = expected, auxiliary.conv_seg(run(auxiliary.convs[0], first))
    net = NETWORKS[name]()
    out = jax.jit(net.apply)(from_torch(net, state, X, dialect="auto"), np.moveaxis(x.numpy(), 1, -1))
    for ours, theirs in zip(out, expected, strict=True):
        theirs = np.moveaxis(theirs.numpy(), 1, -1)
        assert np.abs(ours - theirs).max() < 1e-10 * np.abs(theirs).max()


# mmdet


WIDE, HEADS, HIDDEN = 32, 4, 48


def mmdet_layer(torch, *attentions):
    """A layer of mmdet's DETR, with the names of version 3."""
    layer = torch.nn.Module()
    for name in attentions:
        attention = torch.nn.Module()
        attention.attn = torch.nn.MultiheadAttention(WIDE, HEADS, batch_first=True)
        setattr(layer, name, attention)
    first = torch.nn.Sequential(torch.nn.Linear(WIDE, HIDDEN), torch.nn.ReLU())
    layer.ffn = torch.nn.Module()
    layer.ffn.layers = torch.nn.Sequential(first, torch.nn.Linear(HIDDEN, WIDE))
    layer.norms = torch.nn.ModuleList([torch.nn.LayerNorm(WIDE) for _ in range(len(attentions) + 1)])
    return layer


def test_a_transformer_of_mmdet_gives_our_numbers():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Module()
    theirs.encoder, theirs.decoder = torch.nn.Module(), torch.nn.Module()
    theirs.encoder.layers = torch.nn.ModuleList([mmdet_layer(torch, "self_attn")])
    theirs.decoder.layers = torch.nn.ModuleList([mmdet_layer(torch, "self_attn", "cross_attn") for _ in range(2)])
    theirs.decoder.post_norm = torch.nn.LayerNorm(WIDE)
    torch_module(theirs)
    image, pos = torch.randn(2, 2, 3, 2, WIDE, dtype=torch.float64)
    queries = torch.randn(7, WIDE, dtype=torch.float64)
    memory, places = image.flatten(1, 2), pos.flatten(1, 2)
    found, query = torch.zeros(2, 7, WIDE, dtype=torch.float64), queries.expand(2, 7, WIDE)
    with torch.no_grad():
        for layer in theirs.encoder.layers:
            q = memory + places
            memory = layer.norms[0](memory + layer.self_attn.attn(q, q, memory)[0])
            memory = layer.norms[1](memory + layer.ffn.layers(memory))
        for layer in theirs.decoder.layers:
            q = found + query
            found = layer.norms[0](found + layer.self_attn.attn(q, q, found)[0])
            found = layer.norms[1](found + layer.cross_attn.attn(found + query, memory + places, memory)[0])
            found = layer.norms[2](found + layer.ffn.layers(found))
        expected = theirs.decoder.post_norm(found).numpy()
    net = Transformer(WIDE, HEADS, 1, num_decoder_layers=2, dim_feedforward=HIDDEN)
    x, padding = jnp.asarray(image.numpy()), jnp.zeros((2, 3, 2), bool)
    call = dict(mask=padding, query_embed=jnp.asarray(queries.numpy()), pos_embed=jnp.asarray(pos.numpy()))
    ours = translate(theirs.state_dict(), source="mmdet")
    variables = from_torch(net, {key.removeprefix("transformer."): v for key, v in ours.items()}, x, **call)
    assert np.abs(net.apply(variables, x, **call)[0][-1] - expected).max() < 1e-10


def test_a_detr_of_mmdet_is_recognised_before_anything_is_read():
    ours = {key: shape for key, shape in golden("detr_r50").items() if not dropped(key)}
    names = find_dialect("mmdet").write_names(ours)
    theirs = {name: Lazy(ours[key], np.dtype("float32"), pytest.fail) for key, (name,) in names.items()}
    (candidate,) = recognise(theirs)
    assert candidate.options == "--model detr_resnet50 --dialect mmdet"


# mmpretrain


def test_mmpretrain_is_recognised_as_the_network_with_the_same_arithmetic():
    (candidate,) = recognise(random_state(shapes("mmpretrain_seresnet50")))
    assert candidate.options == "--model insight_se_resnet50 --arg num_classes=10 --dialect mmpretrain"


def test_a_gate_of_mmpretrain_gives_our_numbers():
    torch = pytest.importorskip("torch")
    from flax_attn import InsightSEBottleneck
    from torch_ref.blocks.se import InsightSEBottleneck as Twin

    twin = torch_module(Twin(64, 16))
    gate = torch.nn.Module()
    for name, inputs, outputs in (("conv1", 64, 4), ("conv2", 4, 64)):
        setattr(gate, name, conv_module(torch, inputs, outputs, 1, bn=False))
    torch_module(gate)
    x = torch.randn(2, 64, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        y = twin.bn1(twin.conv1(x)).relu()
        y = twin.bn3(twin.conv3(twin.bn2(twin.conv2(y)).relu()))
        weights = gate.conv2.conv(gate.conv1.conv(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        expected = np.moveaxis((x + y * weights).relu().numpy(), 1, -1)
    state = {key: value for key, value in twin.state_dict().items() if not key.startswith("se.")}
    state |= {f"se_layer.{key}": value for key, value in gate.state_dict().items()}
    ours = InsightSEBottleneck(64, 16)
    inputs = jnp.asarray(np.moveaxis(x.numpy(), 1, -1))
    variables = from_torch(ours, state, inputs, dialect="mmpretrain")
    assert np.abs(ours.apply(variables, inputs) - expected).max() < 1e-10 * np.abs(expected).max()
    back = to_torch(ours, variables, inputs, dialect="mmpretrain")
    same_bits(
        {k: v for k, v in back.items() if k.startswith("se_layer.")},
        {k: v.numpy() for k, v in state.items() if k.startswith("se_layer.")},
    )
