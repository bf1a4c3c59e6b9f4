"""The benchmark runs as a command, continues what it has, and its figures make the page."""

import contextlib
import importlib
import json
import math
import sys

import pytest

torch = pytest.importorskip("torch")

from docs.performance import performance
from examples import attention_memory
from examples.benchmark import flax_side, measure, ratios, timing
from examples.benchmark.case import apart, draw
from flax_attn import PAM_Module
from flax_attn.catalog import CATALOG

command = importlib.import_module("examples.benchmark.__main__")
TINY = [next(entry for entry in CATALOG if entry.name == name) for name in ("SELayer", "BaselineNetwork")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The benchmark of two tiny entries, as a command."""
    monkeypatch.setattr(command, "BENCH", TINY)
    monkeypatch.setattr(command, "keep_freed_memory", lambda: None)

    def start(*options):
        out = ["--out", str(tmp_path), "--rounds", "2", "--no-compile", *options]
        monkeypatch.setattr(sys, "argv", ["benchmark", *out])
        command.main()
        return json.loads((tmp_path / "figures.json").read_text())

    return start


def test_command_measures_prints_and_draws(run, tmp_path, capsys, monkeypatch):
    figures = run()
    printed = capsys.readouterr().out
    assert [row["name"] for row in figures["rows"]] == [entry.name for entry in TINY]
    assert {*figures["versions"]} >= {"jax", "jaxlib", "flax", "torch", "python"}
    assert {*figures["machine"]} >= {"processor", "cores", "jax device"}
    for row in figures["rows"]:
        assert row["difference"] < 1e-5
        assert row["commit"] == figures["commit"]
        for mode in ratios.MODES:
            forms = row[mode]
            assert forms["compile"] == {"missing": "not asked for"}
            for form in ("ours", "eager"):
                assert forms[form]["rounds"] == 2
                assert 0 < forms[form]["least"] <= forms[form]["lower"] <= forms[form]["median"] <= forms[form]["upper"]
            assert f"{ratios.ratio(forms):.2f}" in printed
    assert figures["rows"][1]["training"]["channels_last"] == {"missing": "no images"}
    assert "geometric mean" in printed
    assert (tmp_path / "float32.png").stat().st_size > 1000
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("measured what the folder has"))
    assert run()["rows"] == figures["rows"]


def test_failure_is_a_row_and_does_not_stop(run, monkeypatch, capsys):
    monkeypatch.setattr(measure, "CLOSE", {"float32": -1.0})
    rows = run("Baseline", "--only", "forward")["rows"]
    assert len(rows) == 1
    assert rows[0]["error"].startswith("ValueError: the outputs of Flax and PyTorch differ by")
    assert "the outputs of Flax and PyTorch differ" in capsys.readouterr().out


def test_figures_of_another_machine_are_not_continued(run, tmp_path, monkeypatch):
    (tmp_path / "figures.json").write_text(json.dumps({"machine": {}, "versions": {}, "rows": []}))
    with pytest.raises(SystemExit, match="give another --out"):
        run()


def test_memory_of_attention_is_measured_in_both_forms(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attention_memory, "CASES", [attention_memory.Case(PAM_Module, 8, 5, "query_block")])
    monkeypatch.setattr(attention_memory, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(attention_memory.os, "sysconf", lambda name: 100)
    out = tmp_path / "new" / "figures.json"
    monkeypatch.setattr(sys, "argv", ["attention_memory", "--out", str(out)])
    attention_memory.main()
    whole, blocks = json.loads(out.read_text())
    assert (whole["form"], whole["weights"], set(whole["forward"])) == ("all", 2.5e-6, {"GB counted"})
    assert blocks["form"] == "blocks"
    assert blocks["gradient"]["s"] > 0
    assert blocks["gradient"]["GB"] >= 0
    assert "1x5x5x8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["NoSuchEntry"], "expected a part of the name of an entry, got 'NoSuchEntry'"),
        (["NoSuchEntry", "--parity"], "expected a part of the name of an entry, got 'NoSuchEntry'"),
        (["--rounds", "0"], "expected a whole number of at least 1, got 0"),
        (["--seconds", "nan"], "expected a number of seconds above 0, got nan"),
    ],
    ids=str,
)
def test_bad_options_are_one_sentence_before_anything_is_measured(run, options, sentence, monkeypatch, capsys):
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as caught:
        run(*options)
    assert sentence in f"{caught.value}{capsys.readouterr().err}"


def test_a_file_in_place_of_the_folder_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match="File exists"):
        run("--out", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_file_that_has_no_figures_is_not_continued(run, tmp_path, content):
    (tmp_path / "figures.json").write_text(content)
    with pytest.raises(SystemExit, match="to have figures, got another file: give another --out"):
        run()
    assert (tmp_path / "figures.json").read_text() == content


def timed(median):
    return {"median": median, "peak": 2**20, "first": 1.0}


def figures(ours, eager, last, name="SELayer"):
    forms = {"ours": timed(ours), "plain": {}, "eager": timed(eager), "channels_last": timed(last), "compile": {}}
    return {"name": name, "dtype": "float32", "sizes": ["2x3"], "forward": forms}


def test_ratio_is_that_of_the_fastest_form():
    row = figures(2.0, eager=3.0, last=1.0)
    assert ratios.best_torch(row["forward"]) == "channels_last"
    assert ratios.ratios([row], "forward") == {"SELayer": 0.5}
    assert ratios.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert math.isnan(ratios.geometric_mean([]))


def test_times_have_three_digits():
    shown = [ratios.milliseconds({"median": value}) for value in (1.2345, 0.0012345, 0.0000012345)]
    assert shown == ["1234", "1.23", "0.00123"]
    assert ratios.milliseconds({"missing": "no images"}) == "-"


def test_reason_names_the_mode_where_the_other_was_measured():
    row = figures(1.0, eager=1.0, last=1.0)
    row["training"] = {"compile": {"missing": "took too long"}}
    assert ratios.without([row], "compile") == {"took too long": ["SELayer (training)"]}


def test_page_shows_losses_and_their_causes(monkeypatch):
    monkeypatch.setitem(importlib.import_module("docs.performance").WHY["float32"], "SELayer", "the cause")
    rows = [figures(2.0, eager=3.0, last=1.0), figures(1.0, eager=3.0, last=4.0, name="CBAM")]
    rows[0]["forward"]["compile"] = {"missing": "no compiler"}
    machine = {"processor": "a processor", "cores": 2, "jax device": "cpu", "torch device": "cpu"}
    page = performance({"rows": rows, "machine": machine, "versions": {}, "date": "2030-01-02 03:04", "commit": "abc"})
    lines = page.splitlines()
    (lost,), (won,) = ([line for line in lines if line.startswith(f"| {name}")] for name in ("SELayer", "CBAM"))
    assert "**0.50**" in lost
    assert lost.endswith("the cause |")
    assert "3.00" in won
    assert "**" not in won
    assert "geometric mean 1.22, 1 of 2 faster" in page
    assert "2030-01-02 at commit abc, on a processor with 2 cores" in page
    assert "No torch.compile: SELayer. no compiler" in page


def test_outputs_that_differ_are_found():
    assert apart([[3.0, 4.0]], [[3.0, 4.0]]) == 0
    assert apart([[3.0, 4.5]], [[3.0, 4.0]]) == pytest.approx(0.1)
    assert apart([[math.nan]], [[1.0]]) == math.inf
    with pytest.raises(ValueError, match="Flax gives"):
        apart([[1.0]], [[1.0, 2.0]])


def test_functions_take_turns():
    called = []
    thunks = {name: lambda name=name: called.append(name) for name in "ab"}
    figures = timing.take_turns(thunks, seconds=0.0, least=3)
    assert [figures[name]["rounds"] for name in "ab"] == [3, 3]
    order = [name for name, before in zip(called, [None, *called], strict=False) if name != before]
    assert "".join(order) == "ab" * 4


def test_plain_form_is_measured_where_it_differs(monkeypatch):
    numbers = draw(TINY[0], "float32")
    program = flax_side.lowered(numbers, "forward").compiled()
    monkeypatch.setattr(flax_side, "plain_forms", lambda: None)
    assert measure.plain_form(numbers, "forward", program.text)[1] is None
    monkeypatch.setattr(flax_side, "plain_forms", contextlib.nullcontext)
    assert measure.plain_form(numbers, "forward", program.text)[0] == {"missing": "the same program"}
    assert measure.plain_form(numbers, "forward", "another program")[1] is not None
