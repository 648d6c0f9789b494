from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from pellucid.errors import BadInput, IntegrityError, OptionError, ResourceError
from pellucid.sample import Sample, collate
from pellucid.training import loop, penalties, run_folder, session
from pellucid.training.config import TrainingConfig
from pellucid.training.data import shuffled
from pellucid.training.loop import TrainingInterrupted, train
from pellucid.training.run import Run

pytest.importorskip("lightning_fabric")

RECIPE = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "precision": "32"}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def quiet(model: nn.Module, data: Any, config: dict[str, Any], **more: Any) -> Run:
    return train(model, data, TrainingConfig(**{**RECIPE, **config}), progress=False, **more)


def test_it_learns(rank: int, toy: Any, net: Any) -> None:
    data = toy(n=48, size=(8, 8, 4)[:rank])
    run = quiet(
        net(rank),
        data,
        {"epochs": 8, "penalty": "l1", "strength": 0.01, "augment": ["hflip"] if rank > 1 else []},
        validation=toy(n=64, size=(8, 8, 4)[:rank]),
    )
    losses = [row["loss"] for row in run.history]
    assert losses[-1] < losses[0]
    assert run.last("val_auc") > 0.95
    assert run.best_epoch == 8


def test_it_is_the_plain_loop(toy: Any, net: Any) -> None:
    """Against a training loop written out, in double precision: loss, penalty after its warm-up, AdamW, one cycle."""
    data, config = (
        toy(n=20),
        TrainingConfig(**RECIPE, penalty="elastic_net", strength=0.3, l1_share=0.2, penalty_warm_up=0.5),
    )
    model = net(dropout=0.0).double()
    run = train(model, data, config, progress=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=config.weight_decay)
    total = 3 * 3
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=total, pct_start=0.3)
    model.train()
    step = 0
    for epoch in range(3):
        for indices in shuffled(20, 8, config.seed, epoch):
            samples = [data[i] for i in indices]
            logits, maps = model(collate(samples).double(), return_evidence=True)
            loss = F.cross_entropy(logits, torch.tensor([s.label for s in samples]))
            if step >= 0.5 * total:
                loss = loss + 0.3 * (0.2 * maps.abs().mean() + 0.8 * maps.pow(2).mean())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            scheduler.step()
            step += 1
    for name, value in model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-8, atol=1e-10)


def test_paper_code_regularises_the_first_input_alone(toy: Any, net: Any) -> None:
    """One SGD step without momentum's past: the change of the weights is the literal loss's gradient."""
    data, model = toy(n=6), net(dropout=0.0).double()
    config = TrainingConfig(
        epochs=1,
        batch_size=6,
        lr=1e-2,
        optimiser="sgd",
        weight_decay=0,
        schedule="constant",
        penalty="elastic_net",
        compat="paper-code",
        strength=0.1,
        precision="32",
    )
    run = train(model, data, config, progress=False)
    samples = [data[i] for i in shuffled(6, 6, 0, 0)[0]]
    logits, A = model.train()(collate(samples).double(), return_evidence=True)
    loss = (
        F.cross_entropy(logits, torch.tensor([s.label for s in samples]))
        + 0.05 * torch.norm(A[0], 1)
        + 0.05 * torch.norm(A[0], 2)
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = parameter - 1e-2 * 1.9 * parameter.grad  # Nesterov: gradient plus 0.9 times the new momentum
        torch.testing.assert_close(run.model.get_parameter(name), expected, rtol=1e-9, atol=1e-12)
    assert run.history[0]["penalty"] == pytest.approx(
        (0.5 * torch.norm(A[0], 1) + 0.5 * torch.norm(A[0], 2)).item(), rel=1e-6
    )


def test_the_given_network_and_random_states_stay(toy: Any, net: Any) -> None:
    model = net().eval()
    model.head.weight.requires_grad_(False)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, grad = weights(model), next(model.parameters()).grad
    states = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGINT),
    )  # type: ignore[index]
    run = quiet(model, toy(), {"freeze": ["trunk.0"], "threads": 2, "augment": ["vflip"]})
    model.fails_at = 2
    with pytest.raises(InterruptedError):
        quiet(model, toy(), {})
    assert equal(weights(model), before)
    assert next(model.parameters()).grad is grad
    assert not any(m.training for m in model.modules())
    assert not model.head.weight.requires_grad
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    assert states[2:] == (random.getstate(), torch.get_num_threads(), signal.getsignal(signal.SIGINT))
    assert not equal(weights(run.model), before)
    assert torch.equal(run.model.head.weight, model.head.weight)


def test_frozen_parts_do_not_move(toy: Any, net: Any) -> None:
    model = net()
    run = quiet(model, toy(), {"freeze": "trunk"})
    after = weights(run.model)
    assert all(torch.equal(v, after[k]) for k, v in weights(model).items() if k.startswith("trunk."))
    assert not torch.equal(after["head.weight"], model.head.weight)
    with pytest.raises(OptionError, match="Did you mean 'trunk'"):
        quiet(model, toy(), {"freeze": "trunks"})
    with pytest.raises(OptionError, match="No parameter of the network can learn"):
        quiet(model, toy(), {"freeze": ["trunk", "head"]})


@pytest.mark.parametrize("fails_at", [1, 4, 6, 7, 12])
def test_resumed_equals_never_stopped(tmp_path: Path, toy: Any, net: Any, fails_at: int) -> None:
    """24 samples in batches of 5: five steps an epoch; the network breaks in any of three epochs."""
    config = {
        "batch_size": 5, "penalty": "l1", "strength": 0.1, "penalty_warm_up": 0.4, "augment": ["hflip", "rotate90"], "save_every_steps": 2, "val_fraction": 0.25, "keep_best": "val_auc",
    }  # fmt: skip
    data = toy(n=32)
    whole = quiet(net(), data, config, folder=tmp_path / "whole")
    model = net()
    model.fails_at = fails_at
    with pytest.raises(InterruptedError, match="power cut"):
        quiet(model, data, config, folder=tmp_path / "cut")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    other = net()
    with torch.no_grad():
        other.head.weight += 1 if fails_at > 2 else 0  # what it starts from does not matter once a state was saved
    resumed = quiet(other, data, config, folder=tmp_path / "cut")
    assert equal(weights(resumed.model), weights(whole.model))
    assert resumed.history == whole.history
    for name in ("metrics.csv", "metrics.jsonl", "config.yaml", "plan.json", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_last_state_falls_back_to_the_one_before(tmp_path: Path, toy: Any, net: Any) -> None:
    whole = quiet(net(), toy(), {})
    model = net()
    model.fails_at = 8
    with pytest.raises(InterruptedError):
        quiet(model, toy(), {}, folder=tmp_path)
    last = tmp_path / "state" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    assert equal(weights(quiet(net(), toy(), {}, folder=tmp_path).model), weights(whole.model))


def test_both_states_damaged_is_said(tmp_path: Path, toy: Any, net: Any) -> None:
    model = net()
    model.fails_at = 8
    with pytest.raises(InterruptedError):
        quiet(model, toy(), {}, folder=tmp_path)
    for path in (tmp_path / "state").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(IntegrityError, match="resume=False"):
        quiet(net(), toy(), {}, folder=tmp_path)
    assert len(quiet(net(), toy(), {}, folder=tmp_path, resume=False).history) == 3


def test_a_crash_while_writing_the_result_is_resumed(
    tmp_path: Path, toy: Any, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saved model has a manifest of its own; alone it does not make a finished run."""
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_manifest", lambda *_: (_ for _ in ()).throw(InterruptedError("power cut")))
        with pytest.raises(InterruptedError):
            quiet(net(), toy(), {}, folder=tmp_path)
    assert (tmp_path / "manifest.json").exists()
    run = quiet(net(), toy(), {}, folder=tmp_path)
    assert equal(weights(run.model), weights(quiet(net(), toy(), {}).model))
    assert run_folder.finished(tmp_path)


def test_a_finished_run_is_only_read(tmp_path: Path, toy: Any, net: Any) -> None:
    first = quiet(net(), toy(bad=(3,)), {"val_fraction": 0.3}, folder=tmp_path)
    stamps = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}
    model = net()
    again = quiet(model, toy(bad=(3,)), {"val_fraction": 0.3}, folder=tmp_path)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()} == stamps
    assert equal(weights(again.model), weights(first.model))
    assert not equal(weights(model), weights(first.model))
    assert (again.history, again.best_epoch, again.config, again.facts()) == (
        first.history,
        first.best_epoch,
        first.config,
        first.facts(),
    )
    assert again.skipped == {"s3": "File 3 is damaged."}
    with pytest.raises(OptionError, match="val_loss"):
        again.last("val_lss")


def test_another_training_in_the_folder_is_refused(tmp_path: Path, toy: Any, net: Any) -> None:
    quiet(net(), toy(), {}, folder=tmp_path)
    with pytest.raises(OptionError, match=r"lr was 0\.01, now 0\.02"):
        quiet(net(), toy(), {"lr": 2e-2}, folder=tmp_path)
    with pytest.raises(OptionError, match="Different: data"):
        quiet(net(), toy(fingerprint="new"), {}, folder=tmp_path)
    assert quiet(net(), toy(), {"device": "cpu", "workers": 1}, folder=tmp_path).best_epoch == 3
    assert quiet(net(), toy(), {"lr": 2e-2}, folder=tmp_path, resume=False).config.lr == 2e-2


def test_equal_runs_give_equal_files(tmp_path: Path, toy: Any, net: Any) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
        quiet(net(), toy(), {"val_fraction": 0.3, "workers": workers}, folder=tmp_path / name)
    for file in ("metrics.csv", "metrics.jsonl", "plan.json", "model.safetensors", "model.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    rows = list(csv.DictReader((tmp_path / "a" / "metrics.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [{k: str(v) for k, v in line.items()} for line in lines] == rows
    assert list(rows[0]) == [
        "epoch",
        "step",
        "lr",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "val_auc",
    ]


def test_a_damaged_run_is_refused(tmp_path: Path, toy: Any, net: Any) -> None:
    quiet(net(), toy(), {}, folder=tmp_path)
    for name in ("model.safetensors", "metrics.jsonl", "config.yaml", "model.json", "manifest.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(IntegrityError, match="damaged"):
            Run.load(tmp_path, net())
        path.write_bytes(whole)
    with pytest.raises(BadInput):
        Run.load(tmp_path / "state", net())


class Interrupting:
    """Sends Ctrl-C to this process when a sample is read for the first time in the second epoch."""

    def __init__(self, data: Any, reads: int) -> None:
        self.data, self.left = data, reads
        self.classes, self.fingerprint, self.facts = data.classes, data.fingerprint, data.facts

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        sample: Sample = self.data[index]
        return sample


def test_ctrl_c_saves_the_state(tmp_path: Path, toy: Any, net: Any) -> None:
    config = {"cache_mib": 0, "penalty": "l2", "strength": 0.1}
    whole = quiet(net(), toy(), config)
    with pytest.raises(TrainingInterrupted, match="after 1 epochs and 2 batches") as caught:
        quiet(net(), Interrupting(toy(), 2 + 24 + 12), config, folder=tmp_path)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert (caught.value.folder, caught.value.epoch, caught.value.step) == (tmp_path, 1, 2)
    assert not (tmp_path / "lock").exists()
    assert equal(weights(quiet(net(), toy(), config, folder=tmp_path).model), weights(whole.model))


def test_training_in_a_thread(toy: Any, net: Any) -> None:
    found: list[Run] = []
    thread = threading.Thread(target=lambda: found.append(quiet(net(), toy(), {})))
    thread.start()
    thread.join()
    assert equal(weights(found[0].model), weights(quiet(net(), toy(), {}).model))


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from training.kit import Net, Toy
from pellucid.training.config import TrainingConfig
from pellucid.training.loop import train
forward = Net.forward
def dying(self, x, return_evidence=False):
    if self.training and self.passes == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, x, return_evidence)
Net.forward = dying
torch.manual_seed(1)
train(Net(2), Toy(), TrainingConfig(epochs=3, batch_size=8, lr=1e-2, precision="32", save_every_steps=1), folder=sys.argv[1], progress=False)
"""


def test_kill_9_and_resume(tmp_path: Path, toy: Any, net: Any) -> None:
    """Killed in the fifth step. `python -m benchmarks.kills` does it at random moments, 30 times."""
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, Path(__file__).parents[1]], check=False)
    assert killed.returncode == -signal.SIGKILL
    went_on, whole = (quiet(net(), toy(), {"save_every_steps": 1}, folder=f) for f in (tmp_path, None))
    assert equal(weights(went_on.model), weights(whole.model))
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["event"], e.get("step")) for e in events if e["event"] == "resumed"] == [("resumed", 1)]


def test_the_best_epoch_is_kept(toy: Any, net: Any) -> None:
    config = {"epochs": 6, "lr": 0.3, "schedule": "constant", "val_fraction": 0.3}
    last = quiet(net(), toy(n=40, scale=0.3), config)
    best = quiet(net(), toy(n=40, scale=0.3), {**config, "keep_best": "val_loss"})
    assert best.history == last.history
    losses = [row["val_loss"] for row in last.history]
    assert best.best_epoch == 1 + int(np.argmin(losses))
    assert last.best_epoch == 6
    stopped = quiet(net(), toy(n=40, scale=0.3), {**config, "epochs": 50, "patience": 2})
    since = [row["val_loss"] for row in stopped.history]
    assert len(since) == 50 or len(since) - 1 - int(np.argmin(since)) == 2


def test_validation_figures_are_those_of_the_returned_weights(toy: Any, net: Any) -> None:
    from pellucid.training.metrics import predict

    held = toy(n=30)
    run = quiet(net(), toy(), {}, validation=held)
    scores = predict(run.model, held).scores()
    assert {k: run.last(f"val_{k}") for k in scores} == pytest.approx(scores, rel=1e-5)


def test_held_out_groups_are_whole_and_named(toy: Any, net: Any) -> None:
    run = quiet(net(), toy(n=40), {"val_fraction": 0.25})
    held = {int(name[1:]) for name in run.held_out}
    assert 6 <= len(held) <= 14
    assert {i // 2 for i in held}.isdisjoint({i // 2 for i in range(40) if i not in held})
    assert {i // 2 % 2 for i in held} == {0, 1}


def test_binary_and_several_labels(toy: Any, net: Any) -> None:
    run = quiet(
        net(classes=1),
        toy(n=48),
        {"epochs": 6, "class_weights": "balanced", "penalty": "l1", "strength": 0.01, "penalty_classes": "target"},
        validation=toy(n=40),
    )
    assert run.task == "binary"
    assert run.last("val_auc") > 0.9

    class Many(toy):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample.changed(label=torch.tensor([sample.label, 1 - sample.label]))

    run = quiet(net(), Many(n=48), {"epochs": 6, "penalty": "l2", "strength": 0.01}, validation=Many(n=40))
    assert run.task == "multilabel"
    assert run.last("val_auc") > 0.9


def test_auxiliary_outputs(toy: Any) -> None:
    from collections import namedtuple

    Outputs = namedtuple("Outputs", ["logits", "aux_logits"])

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = nn.Linear(128, 2), nn.Linear(128, 2)

        def forward(self, x: Tensor) -> Any:
            flat = x.flatten(1)
            return Outputs(self.main(flat), self.aux(flat)) if self.training else self.main(flat)

    model = Two()
    run = quiet(
        model, toy(), {"epochs": 1, "batch_size": 24, "optimiser": "sgd", "schedule": "constant", "weight_decay": 0}
    )
    samples = [toy()[i] for i in range(24)]
    x, labels = collate(samples).flatten(1), torch.tensor([s.label for s in samples])
    (F.cross_entropy(model.main(x), labels) + 0.4 * F.cross_entropy(model.aux(x), labels)).backward()
    assert model.aux.weight.grad is not None
    torch.testing.assert_close(run.model.aux.weight, model.aux.weight - 1e-2 * 1.9 * model.aux.weight.grad)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"keep_best": "val_auc"}, "needs validation data"),
        ({"patience": 2}, "needs validation data"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "meta"}, "does not run on 'meta'"),
        ({"class_weights": (1.0,)}, "1 class weights for 2 classes"),
        ({"task": "multilabel", "penalty": "l1", "penalty_classes": "contrast"}, "no contrast between classes"),
    ],
)
def test_settings_that_do_not_fit(toy: Any, net: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        quiet(net(), toy(), config)


def test_data_and_networks_that_do_not_fit(toy: Any, net: Any) -> None:
    with pytest.raises(OptionError, match="needs evidence maps"):
        quiet(nn.Sequential(nn.Flatten(), nn.Linear(128, 2)), toy(), {"penalty": "l1"})
    with pytest.raises(OptionError, match="as high as wide"):
        quiet(net(), toy(size=(8, 6)), {"augment": "transpose"})
    with pytest.raises(OptionError, match="empty"):
        quiet(net(), toy(n=0), {})
    with pytest.raises(OptionError, match="different classes"):
        quiet(net(), toy(), {}, validation=toy(classes=("a", "b")))
    with pytest.raises(OptionError, match="not a number"):
        quiet(net(), toy(scale=1e30), {"lr": 1e30, "schedule": "constant"})


def test_missing_hardware_and_packages(toy: Any, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="'cuda:99' is not there"):
        quiet(net(), toy(), {"device": "cuda:99"})
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ResourceError, match="Lightning Fabric") as caught:
        quiet(net(), toy(), {})
    assert 'pip install "pellucid[train]"' in caught.value.hint


def test_running_out_of_memory_is_said(toy: Any, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(session.Session, "_step", full)
    with pytest.raises(ResourceError, match="batches of 8") as caught:
        quiet(net(), toy(), {})
    assert "batch_size" in caught.value.hint


def test_bf16_learns_too(toy: Any, net: Any) -> None:
    run = quiet(
        net(), toy(n=48), {"epochs": 8, "precision": "bf16", "penalty": "l1", "strength": 0.01}, validation=toy(n=40)
    )
    assert run.last("val_auc") > 0.95
    assert next(run.model.parameters()).dtype == torch.float32


def test_precision_of_a_resumed_run_is_the_recorded_one(
    tmp_path: Path, toy: Any, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_fast_bf16", lambda device: False)
    whole = quiet(net(), toy(), {"precision": "auto"})
    model = net()
    model.fails_at = 5
    with pytest.raises(InterruptedError):
        quiet(model, toy(), {"precision": "auto"}, folder=tmp_path)
    monkeypatch.setattr(loop, "_fast_bf16", lambda device: True)
    assert equal(weights(quiet(net(), toy(), {"precision": "auto"}, folder=tmp_path).model), weights(whole.model))


def test_notes_and_progress_go_to_stderr(toy: Any, net: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(net(), toy(), TrainingConfig(**RECIPE, augment=["hflip"]), progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("Left and right look the same")
    assert told.err.count("epoch ") == 3
    assert run.notes[0].startswith("Left and right")


def test_a_converted_network(tmp_path: Path, toy: Any) -> None:
    """The real thing: conversion, training with a penalty, folder, and back."""
    from pellucid.models.convert import convert
    from pellucid.models.storage import load
    from pellucid.models.zoo import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build("pellucid:s8", in_channels=2)
    data = toy(n=48, size=(16, 16))
    softcam = convert(network, data[0].input[None])
    run = quiet(softcam, data, {"epochs": 4, "penalty": "l1", "strength": 0.05}, folder=tmp_path)
    x = collate([data[i] for i in range(4)])
    with torch.no_grad():
        logits, maps = run.model(x, return_evidence=True)
        for again in (Run.load(tmp_path).model, load(tmp_path)):
            assert torch.equal(again(x), logits)
    torch.testing.assert_close(maps.flatten(2).mean(2), logits, rtol=1e-5, atol=1e-5)
    assert run.history[-1]["penalty"] == pytest.approx(run.last("penalty"))
    with torch.no_grad():
        assert float(penalties.l1(maps)) > 0


def test_a_softcam_without_penalty_takes_the_steps_of_the_plain_network(rank: int, toy: Any) -> None:
    """The conversion is exact, so both have the same logits and gradients all along, for signals as for images."""
    from pellucid.models import zoo
    from pellucid.models.convert import convert

    data = toy(n=24, size=(16, 16, 8)[:rank])
    example = collate([data[0], data[1]])
    shape = zoo.shape_options("pellucid:s8", example.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = zoo.build("pellucid:s8", num_classes=2, channels=(4, 4), strides=(2, 2), **shape)
    networks = [quiet(start, data, {}).model for start in (plain, convert(plain, example))]
    with torch.no_grad():
        torch.testing.assert_close(networks[1](example), networks[0](example), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(networks[0](example), plain(example), atol=1e-2)


def masked(toy: Any, many: bool = False, **options: Any) -> Any:
    """The toy with a mask on the upper half of every other sample, and two labels where asked."""

    class Masked(toy):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            mask = torch.zeros(sample.input.shape[1:], dtype=torch.bool)
            mask[: len(mask) // 2] = True
            label = torch.tensor([sample.label, index % 3 == 0]).long() if many else sample.label
            return sample.changed(mask=mask if index % 2 else None, label=label)

    return Masked(**options)


@pytest.mark.parametrize(
    "config",
    [
        {"penalty": "l1", "strength": 0.3, "class_weights": (1.0, 3.0), "label_smoothing": 0.1},
        {"penalty": "entropy", "strength": 0.3, "penalty_classes": "contrast", "focal_gamma": 2.0},
        {"penalty": "mask", "strength": 0.3, "penalty_classes": "target", "augment": ["hflip", "vflip"]},
        {"penalty": "l2", "strength": 0.3, "penalty_classes": "target", "task": "multilabel"},
    ],
)
def test_a_batch_in_pieces_is_the_whole_batch(toy: Any, net: Any, config: dict[str, Any]) -> None:
    """In float64, without batch statistics and dropout; the last batch is a short one, and pieces are uneven."""
    data = masked(toy, many=config.get("task") == "multilabel", n=21)
    common = {**config, "batch_size": 8, "freeze": ["trunk.1"], "optimiser": "sgd"}
    whole = quiet(net(dropout=0.0).double(), data, common)
    pieces = quiet(net(dropout=0.0).double(), data, {**common, "accumulate": 3})
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(pieces.model)[name], value, rtol=1e-10, atol=1e-12)
    for row, other in zip(whole.history, pieces.history, strict=True):
        assert other == pytest.approx(row, rel=1e-9)
    assert not equal(weights(whole.model), weights(net().double()))


def test_evidence_outside_masks_is_penalised(toy: Any, net: Any) -> None:
    """One step against the literal loss: cells of the lower half of the samples that have a mask."""
    data, model = masked(toy, n=6), net(dropout=0.0).double()
    settings = {"epochs": 1, "batch_size": 6, "optimiser": "sgd", "weight_decay": 0, "schedule": "constant"}
    run = quiet(model, data, {**settings, "penalty": "mask", "strength": 0.5})
    samples = [data[i] for i in shuffled(6, 6, 0, 0)[0]]
    logits, A = model.train()(collate(samples).double(), return_evidence=True)
    outside = A[[s.mask is not None for s in samples]].abs()
    outside[:, :, :2] = 0
    (F.cross_entropy(logits, torch.tensor([s.label for s in samples])) + 0.5 * outside.mean()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(run.model.get_parameter(name), parameter - 1e-2 * 1.9 * parameter.grad)
    assert run.history[0]["penalty"] == pytest.approx(outside.mean().item())
    with pytest.raises(OptionError, match="No sample has a mask"):
        quiet(net(), toy(), {"penalty": "mask", "strength": 0.5})


def test_a_mask_of_another_size_is_a_bad_sample(toy: Any, net: Any) -> None:
    class Odd(toy):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index).changed(mask=torch.ones(3, 3, dtype=torch.bool))

    with pytest.raises(BadInput, match="samples cannot be used"):
        quiet(net(), Odd(), {"penalty": "mask", "strength": 0.5})


def test_the_trunk_learns_at_its_own_rate(toy: Any, net: Any) -> None:
    """One step of plain descent: the change of the trunk is a tenth of what it would be."""
    model, settings = net(dropout=0.0).double(), {"epochs": 1, "batch_size": 24, "optimiser": "sgd", "weight_decay": 0}
    moved = [
        {
            k: v - weights(model)[k]
            for k, v in weights(quiet(model, toy(), {**settings, "trunk_lr": share}).model).items()
        }
        for share in (1.0, 0.1)
    ]
    for name, change in moved[0].items():
        if name.startswith(("trunk.0", "head")):
            torch.testing.assert_close(moved[1][name], change * (1 if name.startswith("head") else 0.1))
    still = quiet(model, toy(), {**settings, "trunk_lr": 0})
    assert torch.equal(still.model.trunk[0].weight, model.trunk[0].weight)


def test_heads_of_converted_networks() -> None:
    import pellucid as pl
    from pellucid.models.zoo import build
    from pellucid.training.session import heads

    network = build("pellucid:s8")
    softcam = pl.convert(network, torch.rand(1, 3, 32, 32))
    (head,) = heads(softcam)
    assert head is next(m for m in softcam.modules() if isinstance(m, nn.Linear))
    assert heads(network)[0].weight.shape == head.weight.shape


def test_balanced_sampling_draws_the_classes_alike(toy: Any, net: Any) -> None:
    class Rare(toy):  # type: ignore[misc]
        def _label(self, index: int) -> int:
            return int(index % 8 == 0)

        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index).changed(label=self._label(index))

        def facts(self, index: int) -> Any:
            known = super().facts(index)
            return type(known)(known.name, self._label(index), known.group)

    seen: list[int] = []

    class Watched(Rare):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            seen.append(sample.label)
            return sample

    data = Watched(n=400)
    quiet(net(), data, {"epochs": 1, "batch_size": 64, "sampling": "balanced", "cache_mib": 0})
    drawn = seen[-400:]
    assert abs(sum(drawn) / 400 - 0.5) < 0.1  # four standard deviations
    assert len(drawn) == 400


def test_compiled_training_is_the_same(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler that only traces; what code it makes of that is PyTorch's own matter."""
    import pellucid as pl
    from pellucid.models.zoo import build

    data = toy(size=(16, 16))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        softcam = pl.convert(build("pellucid:s8", in_channels=2, channels=(4, 4), strides=(2, 2)), data[0].input[None])
    config = {"epochs": 2, "penalty": "l1", "strength": 0.1, "penalty_warm_up": 0.4, "val_fraction": 0.3}
    plain, compiler = quiet(softcam, data, config), torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiler(module, backend="eager"))
    compiled = quiet(softcam, data, {**config, "compile": True})
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(weights(compiled.model)[name], value, rtol=1e-4, atol=1e-5)


LATER = (
    "trunk_lr", "accumulate", "penalty_ramp", "log_sum_scale", "sampling", "label_smoothing", "focal_gamma", "crop_scale", "crop_ratio",
    "rotation_degrees", "translation_share", "jitter", "laterality", "split_seed", "compile", "track",
)  # fmt: skip


@pytest.mark.parametrize("broken", [False, True])
def test_folders_from_before_a_setting_existed(
    tmp_path: Path, toy: Any, net: Any, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """An old folder has neither the settings that came later nor a digest of them: it is read, and taken up again."""
    whole = quiet(net(), toy(), {"augment": ["hflip"]})
    model = net()
    model.fails_at = 5 if broken else None
    with monkeypatch.context() as patch:
        now = TrainingConfig.decides
        patch.setattr(TrainingConfig, "decides", lambda self: {k: v for k, v in now(self).items() if k not in LATER})
        patch.setattr(loop, "laterality_note", lambda *_, **__: "said in other words then")
        if broken:
            with pytest.raises(InterruptedError):
                quiet(model, toy(), {"augment": ["hflip"]}, folder=tmp_path)
        else:
            quiet(model, toy(), {"augment": ["hflip"]}, folder=tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k not in LATER}))
    if not broken:
        run_folder.refresh_manifest(tmp_path)
    again = quiet(net(), toy(), {"augment": ["hflip"]}, folder=tmp_path)
    assert equal(weights(again.model), weights(whole.model))
    assert Run.load(tmp_path, net()).config == TrainingConfig(**RECIPE, augment=["hflip"])
    with pytest.raises(OptionError, match=r"penalty_ramp was 0\.0, now 0\.5"):
        quiet(net(), toy(), {"augment": ["hflip"], "penalty_ramp": 0.5}, folder=tmp_path)


def test_what_tracking_needs(tmp_path: Path, toy: Any, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ResourceError) as caught:
        quiet(net(), toy(), {"track": "tensorboard"}, folder=tmp_path)
    assert 'pip install "pellucid[track]"' in caught.value.hint


def test_figures_in_tensorboard(tmp_path: Path, toy: Any, net: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = quiet(net(), toy(n=40), {"track": "tensorboard", "val_fraction": 0.3}, folder=tmp_path)
    read = EventAccumulator(str(tmp_path / "tb")).Reload()
    shown = [e.value for e in read.Scalars("loss/validation")]
    assert shown == pytest.approx([row["val_loss"] for row in run.history], rel=1e-6)


def test_flips_are_warned_of_where_sides_matter(toy: Any, net: Any) -> None:
    assert (
        quiet(net(), toy(), {"augment": ["hflip"], "laterality": True})
        .notes[0]
        .startswith("Warning: left and right matter")
    )
    assert quiet(net(), toy(), {"augment": ["vflip"], "laterality": True}).notes == ()
