"""Networks by name: "torchvision:resnet50", "timm:regnety_016", "pellucid:s8". Nothing is ever downloaded."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.errors import BadInput, IntegrityError, OptionError, nearest

SOURCES = ("pellucid", "timm", "torchvision")


def build(name: str, weights: str | Path | None = None, num_classes: int | None = None, **options: Any) -> nn.Module:
    """The network called `name`, in evaluation mode, at random or with the weights of a local file.

    num_classes: width of the output; where the file has another, its last layer is left out and stays random.
    options: the network's own constructor arguments. Saved models remember name and options and rebuild themselves.

    Raises `OptionError` for an unknown name or option, `BadInput` or `IntegrityError` for an unusable file.
    """
    source, _, own = name.partition(":")
    if not own or source not in SOURCES:
        raise OptionError(
            f"'{name}' is not the name of a network.",
            why="Names look like 'torchvision:resnet50'.",
            hint=f"Start with one of {', '.join(s + ':' for s in SOURCES)}",
        )
    given = options if num_classes is None else {**options, "num_classes": num_classes}
    model = _BUILDERS[source](own, given)
    if _is_plain(given):
        model.pellucid_source = {"name": name, "options": given}  # type: ignore[assignment]
    if weights is not None:
        load_weights(model, weights, new_head=num_classes is not None)
    return model.eval()


def shape_options(name: str, shape: Sequence[int]) -> dict[str, int]:
    """The options with which the network called `name` takes inputs `(channels, *spatial)`; none for networks of others."""
    own = ("pellucid:s8", "pellucid:bagnet9", "pellucid:bagnet17", "pellucid:bagnet33")
    return {"in_channels": shape[0], "rank": len(shape) - 1} if name in own else {}


def source_of(model: nn.Module) -> dict[str, Any] | None:
    """Name and options of a network that `build` made."""
    source = getattr(model, "pellucid_source", None)
    return source if isinstance(source, dict) else None


def _pellucid(name: str, options: dict[str, Any]) -> nn.Module:
    from pellucid.models.bagnet import BagNet
    from pellucid.models.multi_scale import MultiScale
    from pellucid.models.narrowing import rebuilt_local_trunk
    from pellucid.models.s8 import S8

    known: dict[str, Any] = {
        "s8": S8,
        **{f"bagnet{field}": partial(BagNet, field) for field in (9, 17, 33)},
        "multi_scale": MultiScale.rebuilt,
        "local_trunk": rebuilt_local_trunk,
    }
    if name not in known:
        raise OptionError(f"pellucid has no network '{name}'.", hint=nearest(name, known))
    return _constructed(known[name], name, options)


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise OptionError(f"torchvision has no network '{name}'.", hint=nearest(name, known))
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, **options}
    return _constructed(lambda **o: models.get_model(name, weights=None, **o), name, options)


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise OptionError(
            f"'timm:{name}' needs timm.", why="It is not installed.", hint="Install it: pip install 'pellucid[zoo]'."
        ) from error
    if not timm.is_model(name):
        raise OptionError(f"timm has no network '{name}'.", hint=nearest(name, timm.list_models()))
    return _constructed(lambda **o: timm.create_model(name, pretrained=False, **o), name, options)


_BUILDERS = {"pellucid": _pellucid, "timm": _timm, "torchvision": _torchvision}


def _constructed(make: Any, name: str, options: dict[str, Any]) -> nn.Module:
    try:
        model = make(**options)
    except TypeError as error:
        raise OptionError(
            f"'{name}' does not take these options: {', '.join(options) or 'none'}.",
            why=str(error),
            hint="See the network's own documentation.",
        ) from error
    assert isinstance(model, nn.Module)
    return model


def _is_plain(options: Mapping[str, Any]) -> bool:
    """Whether the options can be written down; a network with other ones does not rebuild itself."""
    try:
        json.dumps(options)
    except TypeError:
        return False
    return True


def load_weights(model: nn.Module, path: str | Path, *, new_head: bool = False) -> list[str]:
    """Load a local checkpoint into `model`: `.safetensors`, or a `torch.save` file of plain tensors. Code is never run.

    new_head: where the file's last layer has another number of classes, leave it out. Returns what was left out.

    Raises `BadInput` for a missing file, `IntegrityError` for a damaged or unsafe one, `OptionError` for weights of
    another network.
    """
    given = _state_of(read_checkpoint(path), path)
    own = model.state_dict()
    other = [k for k, v in given.items() if k in own and v.shape != own[k].shape]
    left = other if new_head and _is_one_head(other, given, own) else []
    check_state(
        {k: v for k, v in given.items() if k not in left}, {k: v for k, v in own.items() if k not in left}, path
    )
    model.load_state_dict({k: v for k, v in given.items() if k not in left}, strict=False)
    return left


def read_checkpoint(path: str | Path) -> Any:
    """The content of a checkpoint file, tensors on the CPU; only plain tensors and containers are accepted."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", hint="Check the path.", path=path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd pickle protocol is refused or read, there is nothing to warn of
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            f"{path.name} is not a file of plain tensors; it was not loaded.",
            why="It asks for code to be run when it is read, or is damaged.",  # torch's own words advise to run it
            hint="Save the state dict: torch.save(model.state_dict(), path).",
            path=path,
        ) from error
    except Exception as error:  # damaged files make the readers fail in many ways
        raise IntegrityError(
            f"{path.name} is damaged or no checkpoint.", why=_first_line(error), hint="Get the file again.", path=path
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _state_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict inside common wrappings: {"state_dict": ...}, {"model": ...}, names that start with "module."."""
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise OptionError(
            f"{Path(path).name} holds no state dict.",
            why="Names with tensors are needed.",
            hint="Save it with torch.save(model.state_dict(), path).",
        )
    prefixed = all(str(k).startswith("module.") for k in content)
    return {str(k).removeprefix("module.") if prefixed else str(k): v for k, v in content.items()}


def _is_one_head(other: list[str], given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of other shape are weight and bias of one layer with another number of outputs."""
    return len({k.rpartition(".")[0] for k in other}) == 1 and all(
        given[k].shape[1:] == own[k].shape[1:] for k in other
    )


def check_state(given: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `OptionError` unless both have the same names and shapes."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    shapes = [k for k in own.keys() & given.keys() if own[k].shape != given[k].shape]
    if not (missing or extra or shapes):
        return
    if shapes:
        why = f"'{shapes[0]}' has shape {tuple(given[shapes[0]].shape)} in the file and {tuple(own[shapes[0]].shape)} in the network."
    else:
        why = f"{len(missing)} tensors are missing and {len(extra)} are not the network's, for example '{(missing or extra)[0]}'."
    raise OptionError(
        f"The weights in {Path(path).name} are of another network.",
        why=why,
        hint="Give the network that the weights were trained in, with the same number of classes.",
    )


def categories(name: str) -> tuple[str, ...] | None:
    """The names of ImageNet's classes for a torchvision network, as torchvision keeps them; None for any other."""
    source, _, own = name.partition(":")
    if source != "torchvision":
        return None
    from torchvision import models

    for weights in models.get_model_weights(own):
        if len(weights.meta.get("categories", ())) == 1000:
            return tuple(weights.meta["categories"])
    return None
