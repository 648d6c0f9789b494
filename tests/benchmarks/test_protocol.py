from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.__main__ import main
from benchmarks.study import CLASS, PLAIN, Setting, Subject, fastest, plain_forward, unit

import pellucid
from benchmarks import cams, masked, memory, protocol, several_classes


class FakeMachine:
    """A clock that moves when work is done, and a machine that slows down by the same amount with every call."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.speed, self.drift = 0.0, 1.0, drift
        self.log: list[str] = []

    def work(self, name: str, cost: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now += cost * self.speed
            self.speed += self.drift

        return run

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize("drift", [0.0, 0.1])
def test_ratios_are_those_of_the_costs_on_a_steady_and_on_a_slowing_machine(drift: float) -> None:
    machine = FakeMachine(drift)
    subjects = {"A": machine.work("A", 1.5), "B": machine.work("B", 0.25)}
    ratios = protocol.alternate(machine.work("-", 1.0), subjects, pairs=7, clock=machine.clock)
    assert ratios["A"] == pytest.approx([1.5] * 7)
    assert ratios["B"] == pytest.approx([0.25] * 7)
    against = protocol.compare(ratios["A"], ratios["B"])
    assert (against.median, against.low, against.high) == pytest.approx((6, 6, 6))


def test_every_subject_stands_between_plain_passes_and_the_order_moves_on() -> None:
    machine = FakeMachine()
    subjects = {name: machine.work(name, 1.0) for name in "AB"}
    protocol.alternate(machine.work("-", 1.0), subjects, pairs=2, clock=machine.clock)
    assert "".join(machine.log) == "-AB-AB" + "-A-B-" + "-B-A-"


def test_one_disturbed_call_does_not_move_the_median() -> None:
    assert protocol.estimate([1.0] * 30 + [50.0]).median == 1.0
    assert protocol.estimate([1.0] * 30 + [50.0]).high == 1.0


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    found = [protocol.estimate(generator.normal(1.2, 0.1, 31).tolist(), seed=i) for i in range(150)]
    inside = np.mean([e.low <= 1.2 <= e.high for e in found])
    assert 0.88 <= inside <= 1.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read from /proc")
def test_extra_memory_is_the_highest_and_not_the_last() -> None:
    megabytes = 2**18  # float32 values in a MiB

    def run() -> torch.Tensor:
        torch.ones(96 * megabytes)
        return torch.ones(32 * megabytes)

    assert memory.extra(lambda: torch.ones(64 * megabytes)) == pytest.approx(64, abs=1)
    assert memory.extra(run) == pytest.approx(96, abs=1)


def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, page = tmp_path / "figures.json", tmp_path / "page.md"
    asked = ["--quick", "--no-memory", "--only", "softcam_forward", "--json", str(figures), "--write", str(page)]
    assert main(asked) == 0
    found = json.loads(figures.read_text())
    study = found["studies"][0]
    assert found["quick"]
    assert all(t["low"] <= t["median"] <= t["high"] for row in study["rows"] for t in row["times"].values())
    assert {len(values) for values in study["ratios"]["1"].values()} == {3}
    assert study["goals"][1]["met"]  # the maps' means are the logits, on any network
    assert "SoftCAM of resnet18, 64 px" in capsys.readouterr().out
    assert f"| {PLAIN} | torch {torch.__version__} |" in page.read_text()


def test_quick_run_of_studies_that_compare_maps(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ablation_cam", "eigen_cam"):
        assert main(["--quick", "--no-memory", "--pairs", "2", "--only", name]) == 0
    printed = capsys.readouterr().out
    assert "Ablation-CAM of resnet18, 64 px" in printed
    assert "Eigen-CAM of resnet18, 64 px" in printed


@pytest.mark.slow
def test_quick_run_of_all_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--no-memory", "--pairs", "2"]) == 0
    assert "occlusion of resnet18, 64 px" in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_listed_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: s for name, s in cams.SUBJECTS.items() if name == PLAIN or name.endswith(f", {cams.OWN}")}
    monkeypatch.setattr(cams, "SUBJECTS", {**ours, "stranger": Subject(plain_forward, "no-such-distribution")})
    (study,) = cams.run(Setting("resnet18", side=64, pairs=2, batches=(), others=()))
    stranger = study.rows[-1]
    assert (stranger.subject, dict(stranger.times)) == ("stranger", {})
    assert set(study.ratios[1]) == set(ours)
    assert not any("peer" in goal.what for goal in study.goals)


SETTING = Setting("resnet18", side=96)


def made(subjects: Mapping[str, Subject], name: str, batch: int) -> torch.Tensor:
    pytest.importorskip(
        {"torchcam": "torchcam", "grad-cam": "pytorch_grad_cam"}.get(subjects[name].distribution, "torch")
    )
    found: torch.Tensor = subjects[name].prepare(SETTING.network(), SETTING.inputs(batch))()
    return found


@pytest.mark.parametrize("name", [n for n in cams.SUBJECTS if n.startswith(tuple(f"{kind}, " for kind in cams.SAME))])
def test_all_libraries_give_the_same_map(name: str) -> None:
    """What is compared in speed is the same work, at batch sizes above 1 as well."""
    ours = made(cams.SUBJECTS, f"{name.split(',')[0]}, {cams.OWN}", 2)
    theirs = made(cams.SUBJECTS, name, 2)
    assert theirs.shape == ours.shape == (2, 96, 96)
    assert float((unit(theirs) - unit(ours)).abs().max()) < 1e-4


def test_several_classes_are_those_of_a_loop() -> None:
    ours = made(several_classes.SUBJECTS, several_classes.OURS, 1)
    assert ours.shape == (14, 3, 3)
    for name in ("torch-cam, one pass", "Captum LayerGradCam, loop"):
        torch.testing.assert_close(made(several_classes.SUBJECTS, name, 1), ours, rtol=1e-4, atol=1e-6)
    theirs = several_classes.SUBJECTS["pytorch-grad-cam, loop"].prepare(SETTING.network(), SETTING.inputs(1))()
    assert len(theirs) == 14


@pytest.mark.parametrize("method", ["score_cam", "rise", "occlusion"])
def test_what_is_said_to_give_our_map_does(method: str) -> None:
    (comparison,) = (c for c in masked._comparisons(Setting("resnet18", side=64, others=())) if c.method == method)
    model, x = comparison.setting.network(), comparison.setting.inputs(1)
    own = pellucid.explain(model, x, CLASS, method=method, **comparison.options).at_input_size()
    assert comparison.same
    for name in comparison.same:
        theirs = comparison.others[name].prepare(model, x)()
        assert float((unit(theirs) - unit(own)).abs().max()) < 1e-4


def test_the_fastest_is_found_among_those_that_were_measured() -> None:
    assert fastest({"a": [2.0, 2.0], "b": [1.0, 1.0]}, ["a", "b", "c"]) == "b"
    assert fastest({"a": [2.0, 2.0]}, ["c"]) is None
