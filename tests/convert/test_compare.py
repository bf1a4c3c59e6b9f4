"""``convert.compare`` on a network of one's own: a right one passes, and each planted error is found and named."""

import collections
import re

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

from convert import ComparisonError, MismatchError, compare
from convert.comparing.report import Report, Row, hints
from flax_attn import MultiheadAttention, SELayer, layers
from torch_ref.blocks.se import SELayer as TorchSELayer

IMAGE = np.random.default_rng(0).normal(size=(3, 5, 4, 2))
EXACT = dict(dtypes=["float64"], train_steps=0)
TRAINED = dict(dtypes=["float64"])


class TorchOwn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.se = TorchSELayer(6, 2)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = (x + self.se(x)).mean((2, 3))
        return self.fc(self.drop(x)) + x


class Own(layers.Module):
    """``planted`` names the error."""

    planted: str = ""

    def setup(self):
        eps, momentum = (1e-3 if self.planted == "eps" else 1e-5), (0.9 if self.planted == "momentum" else 0.1)
        self.conv = layers.Conv2d(2, 6, 3, padding=1)
        self.bn = layers.BatchNorm2d(6, eps, momentum)
        self.se = SELayer(6, 2)
        self.some_dropout = layers.Dropout(0.5 if self.planted == "dropout" else 0.3)
        self.fc = Transposed(6, 6) if self.planted == "transposed" else layers.Linear(6, 6)

    def __call__(self, x, train=False):
        x = layers.relu(self.bn(self.conv(x), train and self.planted != "train"))
        gated = self.se(x, train)
        gated = jax.lax.stop_gradient(gated) if self.planted == "gradient" else gated
        x = (gated if self.planted == "residual" else x + gated).mean((1, 2))
        return self.fc(self.some_dropout(x, train)) + x


class Transposed(layers.Linear):
    @linen.compact
    def __call__(self, x, train=False):
        kernel = self.parameter("kernel", layers.init.zeros, (6, 6))
        return x @ kernel.T + self.parameter("bias", layers.init.zeros, (6,))


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def names(report, dtype="float64"):
    return [row.name for row in report.wrong if row.dtype == dtype]


def test_a_right_pair_passes_and_the_torch_module_is_left_alone():
    module = TorchOwn().half().train()
    module.bn.weight.requires_grad_(False)
    before, versions = snapshot(module), [p._version for p in module.parameters()]
    report = compare(Own(), module, IMAGE.astype(np.float32))
    assert report.ok, str(report)
    report.check()
    assert module.training
    assert module.bn.training
    assert [p.requires_grad for p in module.parameters()] == [True, True, False, *[True] * 5]
    assert all(p.grad is None and p.dtype == torch.float16 for p in module.parameters())
    assert [p._version for p in module.parameters()] == versions
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert {row.dtype for row in report.rows} == {"float64", "float32"}
    phases = {row.name.partition(":")[0] for row in report.rows}
    assert phases == {"eval", "step 1", "step 2"}
    found = {row.name for row in report.rows}
    assert {"eval: output", "eval: gradient of input 0", "step 2: gradient of fc.weight"} < found
    assert "step 2: bn.running_var" in found
    assert report.moves_with_input > 1e-2
    assert report.moves_with_parameters > 1e-2
    assert "all 72 results agree" in str(report)


@pytest.mark.parametrize(
    ("planted", "hint", "layer"),
    [
        ("transposed", "a kernel that is not transposed", "fc"),
        ("eps", "look at eps", "bn"),
        ("residual", "a residual that is missing", "fc"),
    ],
)
def test_an_error_in_eval_mode_is_found(planted, hint, layer):
    report = compare(Own(planted), TorchOwn(), IMAGE, **EXACT)
    assert not report.ok
    assert "eval: output" in names(report)
    assert hint in str(report)
    assert f"the output of {layer} is the first that differs" in str(report)
    with pytest.raises(ComparisonError, match=re.escape(str(report))):
        report.check()


def test_a_gradient_error_leaves_the_outputs_alone():
    report = compare(Own("gradient"), TorchOwn(), IMAGE, **EXACT)
    assert {row.kind for row in report.wrong} == {"gradients"}
    assert "eval: gradient of se.fc.0.weight" in names(report)
    assert "eval: gradient of fc.weight" not in names(report)
    assert "stop_gradient or detach" in str(report)


def test_an_error_in_the_statistics_is_found():
    report = compare(Own("momentum"), TorchOwn(), IMAGE, **TRAINED)
    assert {*names(report)} == {f"step {i}: bn.running_{what}" for i in (1, 2) for what in ("mean", "var")}
    assert "look at momentum" in str(report)


@pytest.mark.filterwarnings("ignore:Own. called with train=True, but train=False reached BatchNorm2d")
@pytest.mark.parametrize("planted", ["dropout", "train"])
def test_an_error_in_training_mode_is_found(planted):
    report = compare(Own(planted), TorchOwn(), IMAGE, **TRAINED)
    assert not any(name.startswith("eval") for name in names(report))
    assert "step 1: output" in names(report)
    assert "Eval mode agrees, training does not" in str(report)


class TorchGate(nn.Module):
    def __init__(self, wrong=False):
        super().__init__()
        self.fc, self.gamma, self.wrong = nn.Linear(2, 2), nn.Parameter(torch.zeros(1)), wrong

    def forward(self, x):
        return x + self.gamma * self.fc(torch.relu(x) if self.wrong else x)


class Gate(linen.Module):
    @linen.compact
    def __call__(self, x):
        gamma = self.param("gamma", linen.initializers.zeros, (1,))
        return x + gamma * layers.Linear(2, 2, name="fc")(x)


def test_a_gate_that_starts_as_the_identity_hides_nothing():
    assert compare(Gate(), TorchGate(), IMAGE, layouts="plain", **EXACT).ok
    wrong = TorchGate(wrong=True)
    assert not compare(Gate(), wrong, IMAGE, layouts="plain", **EXACT).ok
    report = compare(Gate(), wrong, IMAGE, layouts="plain", state_dict=wrong.state_dict(), **EXACT)
    assert "The output does not depend on the parameters" in str(report)
    assert "were not compared: fc.weight, fc.bias" in str(report)
    assert not report.ok


def test_the_given_numbers_are_used():
    module = TorchGate(wrong=True)
    module.gamma.data.fill_(1.0)
    positive = np.abs(IMAGE)
    assert compare(Gate(), module, positive, layouts="plain", state_dict=module.state_dict(), **EXACT).ok
    variables = {"params": {"gamma": np.ones(1), "fc": {"kernel": np.eye(2), "bias": np.ones(2)}}}
    report = compare(Gate(), module, positive, layouts="plain", variables=variables, **EXACT)
    assert report.ok
    with pytest.raises(ValueError, match="expected variables or state_dict, got both"):
        compare(Gate(), module, IMAGE, variables=variables, state_dict=module.state_dict())


class TorchConstant(nn.Linear):
    def forward(self, x):
        return super().forward(x * 0)


class Constant(layers.Linear):
    @linen.compact
    def __call__(self, x, train=False):
        return super().__call__(x * 0)


def test_an_output_that_ignores_the_input_is_not_ok():
    report = compare(Constant(4, 3), TorchConstant(4, 3), IMAGE[0, :, :, 0], **EXACT)
    assert all(row.ok for row in report.rows)
    assert report.moves_with_input == 0
    assert not report.ok
    assert "The output does not depend on its input" in str(report)


Result = collections.namedtuple("Result", ["scores", "best"])


class TorchWords(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.words, self.fc, self.conv = nn.Embedding(7, 4), nn.Linear(4, classes), nn.Conv2d(2, 4, 1)

    def forward(self, words, image, scale=1.0):
        scores = self.fc(self.words(words)) * scale
        pixels = self.conv(image) + scores.mean()
        return {"scores": scores, "rest": (pixels, [Result(scores.square(), scores.argmax(-1))]), "none": None}


class Words(linen.Module):
    shift: int = 0
    numbers: bool = False

    @linen.compact
    def __call__(self, words, image, scale=1.0):
        scores = layers.Linear(4, 5, name="fc")(layers.Embedding(7, 4, name="words")(words)) * scale
        pixels = layers.Conv2d(2, 4, 1, name="conv")(image) + scores.mean()
        result = Result(scores**2, (jnp.argmax(scores, -1) + self.shift) % 5)
        return [pixels] if self.numbers else {"scores": scores, "rest": (pixels, [result]), "none": None}


WORDS = np.random.default_rng(0).integers(0, 7, (3, 6))


def test_integer_inputs_and_nested_outputs():
    report = compare(Words(), TorchWords(), WORDS, IMAGE, call={"scale": 2.0}, **EXACT)
    assert report.ok, str(report)
    found = {row.name.removeprefix("eval: ") for row in report.rows if row.kind == "outputs"}
    assert found == {"output scores", "output rest.0", "output rest.1.0.scores", "output rest.1.0.best"}
    assert any(row.name == "eval: gradient of input 1" for row in report.rows)
    assert not any(row.name == "eval: gradient of input 0" for row in report.rows)


def test_integer_outputs_are_compared_exactly():
    report = compare(Words(shift=1), TorchWords(), WORDS, IMAGE, **EXACT)
    assert names(report) == ["eval: output rest.1.0.best"]
    assert report.wrong[0].allowed == 0


def test_other_outputs_are_one_sentence():
    with pytest.raises(ValueError, match=r"but Words returns 0; TorchWords: rest\.0, rest\.1\.0\.scores"):
        compare(Words(numbers=True), TorchWords(), WORDS, IMAGE, **EXACT)
    with pytest.raises(ValueError, match=r"output: expected the same shape .* got \(3, 3, 5, 2\) from Flax"):
        compare(Turned(), nn.Identity(), IMAGE.transpose(3, 1, 2, 0)[:, :, :3], layouts="plain", **EXACT)


class Turned(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x.T


class TorchTurned(nn.Module):
    def forward(self, x):
        return x


def test_modules_that_do_not_belong_together_are_the_error_of_the_conversion():
    with pytest.raises(MismatchError, match=r"(?s)does not fit Own: .*\+ gamma: found shape \(1,\), expected nothing"):
        compare(Own(), TorchGate(), IMAGE)
    with pytest.raises(MismatchError, match=r"~ fc.bias: expected shape \(5,\), found \(3,\)"):
        compare(Words(), TorchWords(3), WORDS, IMAGE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((TorchGate(), Gate(), IMAGE), "expected a Flax module as the first argument, got a TorchGate"),
        ((Gate(), TorchGate, IMAGE), "expected a torch.nn.Module as the second argument, got the class TorchGate"),
        ((Gate(), TorchGate()), "expected at least one input after the two modules, got none"),
    ],
)
def test_what_is_no_module_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(*arguments)


def test_layouts_are_checked_and_named():
    with pytest.raises(ValueError, match=r'expected "image" or "plain" for each of 1 inputs, got \[\'plain\', \'x\'\]'):
        compare(Gate(), TorchGate(), IMAGE, layouts=["plain", "x"])
    with pytest.raises(
        ValueError, match=r"TorchGate cannot be called with inputs of the shapes \(3, 2, 5, 4\) \(image\)"
    ):
        compare(Gate(), TorchGate(), IMAGE)


class Attention(linen.Module):
    @linen.compact
    def __call__(self, x):
        return jnp.einsum("nqd,nkd->nqk", layers.Linear(2, 2, name="fc")(x), x)


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return x @ self.fc(x).mT


class TorchLate(TorchAttention):
    def forward(self, x):
        return self.fc(x)


class Late(Attention):
    @linen.compact
    def __call__(self, x):
        return layers.Linear(2, 2, name="fc")(x) + 1e-3


def test_an_error_after_the_last_layer_is_found():
    report = compare(Late(), TorchLate(), IMAGE[:, 0], layouts="plain", **EXACT)
    assert "All layers of the same path agree: look at what Late computes after fc." in str(report)


def test_a_square_map_that_is_transposed_is_found():
    report = compare(Attention(), TorchAttention(), IMAGE[:, 0], layouts="plain", **EXACT)
    assert "eval: output" in names(report)
    assert "output (3, 4, 4) was read as plain, though both layouts fit" in str(report)
    other = compare(Attention(), TorchAttention(), IMAGE[:, 0], layouts="plain", output_layouts="image", **EXACT)
    assert all(row.ok for row in other.rows if row.kind == "outputs")


class TorchNoisy(nn.Linear):
    def forward(self, x):
        return super().forward(functional.dropout(x, 0.2, self.training)) + self.training * torch.rand_like(x).sum()


class TorchSilent(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.inf


class Silent(layers.Linear):
    @linen.compact
    def __call__(self, x, train=False):
        return super().__call__(x) + jnp.inf


def test_outputs_without_numbers_are_not_ok():
    report = compare(Silent(4, 3), TorchSilent(4, 3), IMAGE[0, :, :, 0], **EXACT)
    assert "These results are NaN or infinite, so they were not compared: output." in str(report)
    assert not report.ok


class TorchEdge(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


class Edge(layers.Linear):
    @linen.compact
    def __call__(self, x, train=False):
        return jnp.maximum(super().__call__(x), 0)


def test_gradients_on_an_edge_are_named():
    numbers = {"weight": np.array([[1.0, -1.0]]), "bias": np.zeros(1)}
    x = np.array([[2.0, 2.0], [3.0, 1.0]])
    report = compare(Edge(2, 1), TorchEdge(2, 1), x, state_dict=numbers, **EXACT)
    assert {row.kind for row in report.wrong} == {"gradients"}
    assert "the numbers lie on an edge, such as a ReLU at 0" in str(report)
    assert compare(Edge(2, 1), TorchEdge(2, 1), x, **EXACT).ok


def test_random_numbers_that_are_not_replaced_are_named():
    report = compare(layers.Linear(4, 3), TorchNoisy(4, 3), IMAGE[0, :, :, 0], **TRAINED)
    assert not report.ok
    assert "TorchNoisy draws random numbers in training mode" in str(report)


def test_a_parameter_that_is_tied_on_one_side_only_is_refused():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    with pytest.raises(MismatchError, match=r"0\.weight, 1\.weight are one parameter in Sequential, but not in"):
        compare(layers.Sequential([layers.Linear(4, 4), layers.Linear(4, 4)]), module, IMAGE[0, :, :, 0])


def row(name, relative, dtype="float64"):
    kind = "outputs" if "output" in name else "gradients"
    return Row(dtype, name, kind, absolute=relative, relative=relative, allowed=1e-10)


def test_the_text_is_short_and_has_the_worst_rows_first():
    rows = [row(f"eval: gradient of {i}", 10.0**-i) for i in range(40)]
    lines = str(Report("a and b", rows)).splitlines()
    assert len(lines) <= 30
    assert lines[0] == "a and b: 10 of 40 results differ"
    assert [line.split()[-1] for line in lines[2:12]] == [str(i) for i in range(10)]


def test_rounding_in_float32_alone_has_a_hint_of_its_own():
    rows = [row("eval: output", 1.0, "float32"), row("eval: output", 0.0)]
    assert "float64 agrees, float32 does not" in hints(rows)[0]


class DropPath(nn.Module):
    """As in timm: whole samples, by numbers that are drawn in place."""

    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        keep = x.new_empty(len(x), 1, 1).bernoulli_(1 - self.drop_prob)
        return x * keep / (1 - self.drop_prob) if self.training else x


class TorchDrops(nn.Module):
    def __init__(self, p=0.3):
        super().__init__()
        self.attend, self.path, self.p = nn.MultiheadAttention(4, 2, dropout=0.4, batch_first=True), DropPath(0.1), p

    def forward(self, x):
        y, _ = self.attend(x, x, x, need_weights=False)
        y = functional.dropout(self.path(y), self.p, self.training)
        y = functional.dropout2d(y[..., None], 0.2, self.training)[..., 0]
        q = y[:, None]
        return functional.scaled_dot_product_attention(q, q, q, None, 0.5 * self.training)[:, 0]


class Drops(layers.Module):
    def setup(self):
        self.attend = MultiheadAttention(4, 2, dropout=0.4, batch_first=True)
        self.samples, self.elements = layers.DropPath(0.1), layers.Dropout(0.3)
        self.rows, self.weights = layers.Dropout2d(0.2), linen.Dropout(0.5)

    def __call__(self, x, train=False):
        y, _ = self.attend(x, x, x, train=train)
        y = self.rows(self.elements(self.samples(y, train), train), train=train)
        weights = layers.softmax(layers.einsum("nqd,nkd->nqk", y, y) / 2)
        return layers.einsum("nqk,nkd->nqd", self.weights(weights, deterministic=not train), y)


def test_every_kind_of_dropout_is_replaced_and_comes_back():
    original = functional.dropout, functional.scaled_dot_product_attention
    tokens = IMAGE.reshape(3, 10, 4)
    report = compare(Drops(), TorchDrops(), tokens, layouts="plain", train_steps=1, dtypes=["float64"])
    assert report.ok, str(report)
    wrong = compare(Drops(), TorchDrops(p=0.2), tokens, layouts="plain", train_steps=1, dtypes=["float64"])
    assert names(wrong)[0].startswith("step 1")
    assert "draws random numbers" not in str(wrong)
    assert (functional.dropout, functional.scaled_dot_product_attention) == original
