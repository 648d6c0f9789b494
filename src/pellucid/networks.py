"""Which network is meant: a saved model's folder, or a name such as torchvision:resnet50; and how it wants its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import BadInput, ConversionError, OptionError

if TYPE_CHECKING:
    import torch
    from torch import nn


def open_network(name: str, *, weights: Path | None, device: torch.device, num_classes: int | None = None) -> nn.Module:
    """The network in evaluation mode on the device."""
    from pellucid.models import zoo

    if Path(name).exists() or ":" not in name:
        if weights is not None or num_classes is not None:
            raise OptionError(
                f"{name} has weights and classes of its own.",
                why="Only a network named like torchvision:resnet50 takes others.",
                hint="Leave out --weights and --num-classes.",
            )
        network = open_saved(name)
    else:
        network = zoo.build(name, weights=weights, num_classes=num_classes)
    return network.eval().to(device)


def open_saved(name: str) -> nn.Module:
    """The network in a folder that pellucid wrote. Raises `BadInput` or `OptionError` where there is none, or several."""
    from pellucid.models import storage

    folder = Path(name)
    if folder.is_file():
        raise BadInput(
            f"{name} is not a model.",
            why="A folder written by pellucid is needed.",
            hint="For a bare checkpoint: --model torchvision:NAME --weights FILE.",
            path=name,
        )
    if not folder.exists():
        raise BadInput(
            f"There is no model '{name}'.",
            why="It is neither a folder nor a name like torchvision:resnet50.",
            hint="Check the path, or name a network as torchvision:NAME.",
            path=name,
        )
    inside = sorted(p.parent for p in folder.glob("*/model.json"))
    if inside and not (folder / "model.json").exists():
        raise OptionError(
            f"{name} holds {len(inside)} models.", why="One is needed.", hint=f"Name one: {inside[0]}", path=name
        )
    return storage.load(folder)


def random_weights(name: str, weights: Path | None) -> str:
    """A warning for a named network without weights; nothing for any other."""
    if weights is not None or Path(name).exists():
        return ""
    return f"No --weights were given: {name} is at random, and its explanations mean nothing."


def check_takes(network: nn.Module, x: torch.Tensor) -> Any:
    """The network's answer to an input. Raises `BadInput` where it cannot take it (another number of channels)."""
    import torch

    from pellucid import hooks

    try:
        with hooks.untouched(network), torch.no_grad():
            return network(x)
    except (RuntimeError, ValueError, TypeError) as error:
        if "memory" in str(error):
            raise
        raise BadInput(
            f"The network cannot take inputs of shape {tuple(x.shape[1:])}.",
            why=str(error).split("\n")[0],
            hint="Give the size or channels it was trained with (size=224, grey=true), or name a network for inputs with "
            f"{x.ndim - 2} axes, such as pellucid:s8.",
        ) from error


def check_names(names: Sequence[str] | None, output: Any) -> None:
    """Raise `OptionError` unless there is one class name per logit (or two for a single logit)."""
    width = output.shape[1] if getattr(output, "ndim", 0) == 2 else None
    if names is None or width is None or len(names) == width or (width == 1 and len(names) == 2):
        return
    raise OptionError(
        f"There are {len(names)} class names for {width} logits.",
        why="Each logit has one name; a single logit may have two, negative and positive.",
        hint="Give one name per line, in the network's order: --classes FILE.",
    )


def made_explainable(network: nn.Module, example: torch.Tensor, name: str, *, keep: str = "") -> tuple[nn.Module, str]:
    """A SoftCAM where the conversion is exact, else the network itself; and a line that says which.

    keep: why the network is to stay as it is, where it is.
    """
    if hasattr(network, "evidence"):
        return network, "The network explains itself (SoftCAM)."
    if keep:
        return network, f"{name} is explained as it is ({keep})."
    from pellucid.models.convert import convert as make

    try:
        softcam = make(network, example[:1], kind="exact")
    except ConversionError as error:
        return network, f"{name} stays a black box: {error.message}"
    softcam.preprocessing = preprocessing(network)  # type: ignore[assignment]
    return softcam, f"{name} was converted exactly: its logits are unchanged and its evidence adds up to them."


# What the user gives decides these too, so that saved values of theirs no longer fit.
_FOLLOWS = {"size": ("shorter_side",), "grey": ("mean", "std")}


def reading_for(network: nn.Module, source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """How the reader of a source is to read for the network: as it was trained, where that is known, unless told otherwise."""
    from pellucid.data import options_of, reader_for

    known = set(options_of(source)) - {name for key in given for name in _FOLLOWS.get(key, ())}
    saved = {k: v for k, v in preprocessing(network).items() if k in known}
    if reader_for(source) == "lesionlab" and not isinstance(saved.get("size"), int):
        saved.pop("size", None)  # its pictures are square
    return {**saved, **given}


def preprocessing(network: nn.Module) -> dict[str, Any]:
    """How the network wants its inputs, as far as that was saved with it; else the readers' defaults, those of ImageNet."""
    return dict(getattr(network, "preprocessing", None) or {})


def class_names(network: nn.Module, name: str, path: Path | None) -> tuple[str, ...] | None:
    """The names of the classes: from a file, from the saved model, or those of ImageNet for torchvision's networks."""
    if path is not None:
        return _names_in(path)
    known = getattr(network, "classes", None)
    if known:
        return tuple(known)
    from pellucid.models import zoo

    return zoo.categories(name)


def _names_in(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"The class names {path} cannot be read.",
            why=str(error),
            hint="Give a text file with one class name per line.",
            path=path,
        ) from error
    return tuple(line.strip() for line in lines if line.strip())
