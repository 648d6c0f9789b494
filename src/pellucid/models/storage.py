"""Networks in a folder: weights as safetensors, a description, and a manifest that notices every flipped bit.

    folder/ model.safetensors   tensors, under the network's own names
            model.json          how to rebuild it: a name of the zoo, the plan and certificate of a SoftCAM
            manifest.json       SHA-256 of both, and of itself

A folder never names code to import: a name of the zoo rebuilds itself, any other network has to be given.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import __version__, files, hooks
from pellucid.call import weights_device
from pellucid.errors import BadInput, IntegrityError, OptionError
from pellucid.models import zoo
from pellucid.models.certificate import Certificate
from pellucid.models.retrain import Retrained
from pellucid.models.softcam import Plan, SoftCAM
from pellucid.targets import Task

FORMAT = 1
_FILES = ("model.json", "model.safetensors")
_FUSED = "pellucid.fused."


def save_model(
    model: nn.Module,
    folder: str | Path,
    *,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
    input_shape: Sequence[int] | None = None,
) -> Path:
    """Write a SoftCAM or any other network to `folder`; the manifest comes last, so a part is never taken for a whole.

    classes, task: kept for a plain network (a SoftCAM has its own). input_shape `(channels, *spatial)`: with it a probe
    is kept, by which `load_model` notices a network that has the same weights but computes something else.
    """
    folder = Path(folder)
    softcam = model if isinstance(model, SoftCAM) else None
    network = softcam.model if softcam else model
    tensors = _tensors(network, "")
    described: dict[str, Any] = {
        "format": FORMAT, "pellucid": __version__, "kind": "black box", "network": type(network).__name__, "source": zoo.source_of(_base(network)),
        "retrain": network.recipe if isinstance(network, Retrained) else None,
        "classes": list(classes) if classes else None, "task": task, "training": model.training,
        "preprocessing": getattr(model, "preprocessing", None) or getattr(network, "preprocessing", None),
    }  # fmt: skip
    known = getattr(model, "certificate", None)
    if described["source"] is not None and isinstance(known, Certificate):  # of several scales
        described["certificate"] = known.as_dict()
    if softcam is not None:
        if softcam.output is not None and not isinstance(softcam.output, int | str):
            raise OptionError(
                "A SoftCAM whose output= is a function cannot be saved.",
                why="A folder never holds code.",
                hint="Use an index or a key.",
            )
        described |= {
            "kind": "softcam", "plan": softcam.plan.as_dict(), "certificate": softcam.certificate.as_dict(), "output": softcam.output,
            "classes": list(softcam.classes) if softcam.classes else None, "task": softcam.task,
        }  # fmt: skip
        if softcam.fused is not None:
            tensors |= _tensors(softcam.fused, _FUSED)
    described["probe"] = _probe(network, input_shape or _shape_for(softcam, network))
    _write(folder, described, tensors)
    return folder


def load_model(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read what `save_model` wrote: a `SoftCAM`, or the plain network.

    model: the user's own network, needed where the saved one is not of the zoo; it is filled with the saved weights.

    The result carries `classes`, `task` and `preprocessing` where they were saved.

    Raises `BadInput` where there is no saved model, `IntegrityError` where a file is damaged, `OptionError` where the
    network is missing or another one.
    """
    folder = Path(folder)
    described = read_description(folder)
    from safetensors.torch import load

    stored: dict[str, Tensor] = load((folder / "model.safetensors").read_bytes())
    network = _network(described, model)
    if described.get("retrain") is not None and not isinstance(network, Retrained):
        network = Retrained(network if model is None else copy.deepcopy(network), described["retrain"])
    own = {k: v for k, v in stored.items() if not k.startswith(_FUSED)}
    zoo.check_state(own, network.state_dict(), folder)
    _take_dtype(network, own)
    network.load_state_dict(own, strict=False)
    _check_probe(network, described["probe"], folder)
    network.train(described["training"])
    loaded = network if described["kind"] != "softcam" else _softcam(network, described, stored)
    for name in ("classes", "task", "preprocessing"):
        if described.get(name) is not None:
            setattr(loaded, name, tuple(described[name]) if name == "classes" else described[name])
    if described.get("certificate") is not None:
        loaded.certificate = Certificate.from_dict(described["certificate"])  # type: ignore[assignment]
    return loaded


def write_certificate(folder: str | Path, certificate: Certificate) -> Path:
    """Put another certificate into the folder of a saved SoftCAM or `MultiScale`; weights and all else stay, the manifest
    is renewed.

    Raises `IntegrityError` where the folder is damaged, `OptionError` where it holds a network without a certificate.
    """
    folder = Path(folder)
    described, manifest = read_description(folder), read_manifest(folder)
    if described.get("certificate") is None:
        raise OptionError(
            f"{folder} holds a {described['kind']}.",
            why="Only a SoftCAM has a certificate.",
            hint="Convert it first: pellucid convert.",
        )
    files.remove(folder / "manifest.json")
    files.write_json(folder / "model.json", {**described, "certificate": certificate.as_dict()})
    facts = {k: v for k, v in manifest.items() if k not in ("format", "files")}
    return write_manifest(folder, sorted(manifest["files"]), **facts)


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a saved model (see `load_model`)."""
    return load_model(folder, model)


def read_description(folder: str | Path) -> dict[str, Any]:
    """What `model.json` says, after every file of the folder was checked against the manifest."""
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        raise BadInput(
            f"{folder} is not a saved model.",
            why="It has no manifest.json.",
            hint="Give a folder written by save().",
            path=folder,
        )
    manifest = read_manifest(folder)
    for name in _FILES:
        _check_file(folder / name, manifest["files"].get(name))
    described = files.read_json(folder / "model.json")
    if described["format"] != FORMAT:
        raise BadInput(
            f"{folder} has format {described['format']}.",
            why=f"This version reads format {FORMAT}.",
            hint="Save it again with this version.",
            path=folder,
        )
    return dict(described)


def _write(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    files.remove(folder / "manifest.json")
    files.write_bytes(folder / "model.safetensors", save(tensors))
    files.write_json(folder / "model.json", described)
    write_manifest(folder, _FILES)


def write_manifest(folder: str | Path, names: Sequence[str], **facts: Any) -> Path:
    """Note the SHA-256 of the named files of the folder, and further facts that belong to them (plain values)."""
    folder = Path(folder)
    content = {**facts, "format": FORMAT, "files": {name: files.sha256(folder / name) for name in names}}
    return files.write_bytes(folder / "manifest.json", _sealed(content))


def verify(folder: str | Path) -> dict[str, str]:
    """Compare every file that the manifest of a folder lists; name -> SHA-256. Raises `IntegrityError` for a damaged one."""
    folder = Path(folder)
    listed: dict[str, str] = read_manifest(folder)["files"]
    for name, digest in listed.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _damaged(folder / "manifest.json", f"It lists a file outside the folder: {name}.")
        _check_file(folder / name, digest)
    return listed


def _check_file(path: Path, digest: str | None) -> None:
    if not path.is_file():
        raise _damaged(path, "It is missing.")
    if files.sha256(path) != digest:
        raise _damaged(path, "Its SHA-256 is not the one in the manifest.")


def _sealed(content: dict[str, Any]) -> bytes:
    """The manifest's bytes: its content and the digest of that content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "digest": digest}, sort_keys=True, indent=1) + "\n").encode()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, after its own digest was checked. Raises `BadInput` where there is none."""
    path = Path(folder) / "manifest.json"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"There is no {path}.", why=str(error), hint="Give a folder that was written whole.", path=path
        ) from error
    try:
        value = json.loads(raw)
        content = {**value, "format": value["format"], "files": dict(value["files"])}
        del content["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"It cannot be read: {error}") from error
    if _sealed(content) != raw:
        raise _damaged(path, "Its content does not fit its digest.")
    return content


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged.", why=why, hint="Save the model again, or restore the folder from a copy.", path=path
    )


def _tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise OptionError(
                f"The network's state holds '{name}', a {type(value).__name__}.",
                why="Only tensors can be saved.",
                hint="Keep such state outside the network.",
            )
    return {prefix + name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _network(described: dict[str, Any], model: nn.Module | None) -> nn.Module:
    if model is not None:
        return model.model if isinstance(model, SoftCAM) else model
    source = described["source"]
    if source is None:
        raise OptionError(
            f"The saved network is a {described['network']} of your own.",
            why="A folder never names code to import.",
            hint="Pass it: load(folder, model=<the same network>).",
        )
    return zoo.build(source["name"], **source["options"])


def _base(network: nn.Module) -> nn.Module:
    """The network that a name or the user gives; what was made of it is told by the description."""
    return network.trunk if isinstance(network, Retrained) else network


def _softcam(network: nn.Module, described: dict[str, Any], stored: dict[str, Tensor]) -> SoftCAM:
    fused = None
    if f"{_FUSED}weight" in stored:
        weight, bias = stored[f"{_FUSED}weight"], stored[f"{_FUSED}bias"]
        fused = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weights_device(network))
        fused.load_state_dict({"weight": weight, "bias": bias})
    plan, certificate = Plan.from_dict(described["plan"]), Certificate.from_dict(described["certificate"])
    return SoftCAM(
        network,
        plan,
        certificate,
        task=described["task"],
        classes=described["classes"],
        output=described["output"],
        fused=fused,
    )


def _take_dtype(network: nn.Module, stored: dict[str, Tensor]) -> None:
    kinds = {v.dtype for v in stored.values() if v.is_floating_point()}
    if len(kinds) == 1:
        network.to(kinds.pop())


def _shape_for(softcam: SoftCAM | None, network: nn.Module) -> list[int] | None:
    if softcam is None:
        return None
    first = next((p for p in network.parameters() if p.ndim == softcam.plan.rank + 2), None)
    return None if first is None else [first.shape[1], *softcam.certificate.input_size]


def _probe(network: nn.Module, shape: Sequence[int] | None) -> dict[str, Any] | None:
    """The network's answer to a fixed input; None for networks that need more than one input."""
    if shape is None:
        return None
    answer = _answer(network, list(shape))
    return (
        None
        if answer is None or not bool(answer.isfinite().all())
        else {"shape": list(shape), "answer": answer.tolist()}
    )


def _answer(network: nn.Module, shape: list[int]) -> Tensor | None:
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    kind = torch.float32 if parameter is None else parameter.dtype
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(5)).to(weights_device(network), kind)
    with hooks.untouched(network), torch.no_grad():
        try:
            output = network(x)
        except Exception:
            return None  # needs other inputs, or another number of channels: there is no probe
    return output.double().flatten().cpu() if isinstance(output, Tensor) and output.ndim <= 2 else None


def _check_probe(network: nn.Module, probe: dict[str, Any] | None, folder: Path) -> None:
    if probe is None:
        return
    expected, came = torch.tensor(probe["answer"], dtype=torch.float64), _answer(network, probe["shape"])
    scale = max(float(expected.abs().max()), 1e-12)
    if came is None or came.shape != expected.shape or not float((came - expected).abs().max()) <= 1e-2 * scale:
        raise OptionError(
            f"The network does not compute what the one saved in {folder.name} did.",
            why="The weights fit, but its answer to a fixed input is another one.",
            hint="Pass the very network that was saved: load(folder, model=...).",
            path=folder,
        )
