"""The networks of the benchmark: what is trained, and what is made of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.benchmark.plan import Plan
from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.softcam import SoftCAM
from pellucid.sample import Dataset
from pellucid.training.config import TrainingConfig
from pellucid.training.loop import train
from pellucid.training.run import Run

# Flips that leave a picture of its kind; none where a letter is in play, since they would move it about.
FLIPS = {"fundus": ("hflip", "vflip", "transpose"), "oct": ("hflip",), "xray": ("hflip",)}
COARSE = (2, 2, 2, 2, 1, 1)  # strides of the coarse network


def letter_name(rho: float) -> str:
    """Of the network that was trained with the letter at this strength."""
    return f"rho-{rho:g}"


def trained(plan: Plan, training: int) -> tuple[str, ...]:
    """Names of the networks that this training begins with, on every kind of pictures."""
    ladder = ("coarse", *map(letter_name, plan.rhos)) if training < plan.ladders else ()
    return ("black-box", *ladder)


def place(out: Path, kind: str, training: int, name: str) -> Path:
    """The folder of a trained network."""
    return out / "networks" / f"{kind}-{training}" / name


def train_network(out: Path, plan: Plan, kind: str, training: int, name: str, device: str) -> None:
    """Train one network; a finished one is kept as it is."""
    folder = place(out, kind, training, name)
    seed = plan.seed + training
    if name == "sparse":
        data: Dataset = plan.data(kind, "train", plan.images, training)
        network: nn.Module = load(out, plan, kind, training, "converted")
        recipe = _recipe(plan.tuning_epochs, seed, device, kind, lr=2e-3, penalty="l1", strength=0.1)
    else:
        data = _data(plan, kind, training, name)
        network = _fresh(name, seed, data)
        network = network if name == "black-box" else _as_softcam(network, data)
        lettered = name.startswith("rho-")
        epochs = plan.letter_epochs if lettered else plan.epochs
        recipe = _recipe(epochs, seed, device, None if lettered else kind)
    train(network, data, recipe, folder=folder, progress=False)


def load(out: Path, plan: Plan, kind: str, training: int, name: str) -> SoftCAM:
    """A SoftCAM of the benchmark, ready to be asked.

    "converted": the black box as it is. "untrained": before training. "shuffled": trained, with the values of every
    parameter in another order.
    """
    black_box = _data(plan, kind, training, "black-box")
    if name == "untrained":
        return _as_softcam(_fresh(name, plan.seed + training, black_box), black_box)
    stored = "black-box" if name in ("converted", "shuffled") else name
    network = Run.load(place(out, kind, training, stored)).model.eval()
    if name == "shuffled":
        network = _shuffled(network, plan.seed + training)
    return network if isinstance(network, SoftCAM) else _as_softcam(network, black_box)


def _as_softcam(network: nn.Module, data: Dataset) -> SoftCAM:
    return convert(network, data[0].input[None], classes=data.classes).eval()


def plainly(softcam: SoftCAM) -> SoftCAM:
    """The same network, which takes its cells for tiles of the input, as one does who resizes the map."""
    other = copy.copy(softcam)
    other.certificate = replace(softcam.certificate, start=None, jump=None)
    return other


def _data(plan: Plan, kind: str, training: int, name: str) -> Dataset:
    if name == "coarse":
        return plan.small_lesions(kind, training)
    if name.startswith("rho-"):
        return plan.lettered(kind, training, float(name.removeprefix("rho-")))
    labels = {"labels": "graded"} if name == "graded" else {}
    return plan.data(kind, "train", plan.images, training, **labels)


def _fresh(name: str, seed: int, data: Dataset) -> nn.Module:
    """A network before training, equal whenever it is asked for."""
    strides: dict[str, Any] = {"strides": COARSE} if name == "coarse" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return zoo.build("pellucid:s8", num_classes=len(data.classes), local=True, **strides)


def _shuffled(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


def _recipe(epochs: int, seed: int, device: str, kind: str | None, **more: Any) -> TrainingConfig:
    return TrainingConfig(
        **{
            "epochs": epochs, "batch_size": 32, "lr": 5e-3, "weight_decay": 1e-4, "schedule": "one_cycle", "seed": seed,
            "precision": "32", "device": device, "augment": FLIPS[kind] if kind else (), **more,
        }
    )  # fmt: skip
