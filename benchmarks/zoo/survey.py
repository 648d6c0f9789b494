"""What a network is, told from shapes alone: built without memory, never run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.networks import CLASSES, build


@dataclass(frozen=True)
class Facts:
    """family: the library's module. size: of an input, channels first; fixed: made for that size alone.

    signature: everything after the trunk in words; networks that agree in it are expected to convert alike.
    attach: an encoder as shipped, a classifier is attached. token_head: class tokens feed the head. heads: linear
    heads that give logits. error: why the network cannot be built.
    """

    name: str
    family: str
    network: str
    parameters: int
    size: tuple[int, ...]
    fixed: bool
    signature: str
    attach: bool = False
    token_head: bool = False
    heads: int = 1
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Facts:
        return cls(**{**value, "size": tuple(value["size"])})


def survey(name: str) -> Facts:
    """Build the network without weights and read it."""
    try:
        model, encoder = _built(name)
    except Exception as failure:
        why = f"{type(failure).__name__}: {(str(failure).splitlines() or [''])[0][:200]}"
        return Facts(name, "unknown", "unknown", 0, (3, 224, 224), True, f"unknown {name}", error=why)
    size, fixed = _input(name, model)
    family = type(model).__module__.removeprefix("torchvision.models.").removeprefix("timm.models.")
    return Facts(
        name, family, type(model).__name__, sum(p.numel() for p in model.parameters()), size, fixed,
        signature(model), encoder and getattr(model, "num_classes", 0) == CLASSES, _token_head(model), _heads(model),
    )  # fmt: skip


def _built(name: str) -> tuple[nn.Module, bool]:
    """The network, with a classifier where it takes one, and whether it came without."""
    for shapes_only in (
        _weightless(),
        torch.device("meta"),
    ):  # some constructors compute with weights, some read other tensors
        try:
            with warnings.catch_warnings(), shapes_only:
                warnings.simplefilter("ignore")
                model = build(name)
                encoder = getattr(model, "num_classes", None) == 0
                return (_with_classifier(name, model) if encoder else model), encoder
        except RuntimeError as reading:
            failure = reading
    raise failure


@contextmanager
def _weightless() -> Iterator[None]:
    """Networks built while open have parameters without memory; everything else is computed as usual."""
    register = nn.Module.register_parameter

    def without_memory(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _with_classifier(name: str, encoder: nn.Module) -> nn.Module:
    try:
        return build(name, attach=True)
    except TypeError:  # takes no such option: it stays an encoder
        return encoder


def _input(name: str, model: nn.Module) -> tuple[tuple[int, ...], bool]:
    source, _, own = name.partition(":")
    if source == "timm":
        config = model.pretrained_cfg
        return tuple(config["input_size"]), bool(config["fixed_input_size"])  # type: ignore[index]
    if ".video." in type(model).__module__:
        return (3, 16, 224, 224), False
    return (3, 299, 299) if own == "inception_v3" else (3, 224, 224), False


# Children of a network that come after its trunk, whatever their size.
_HEAD = re.compile(
    r"(pre_)?(head|fc|classif|last_linear|logits|attn_pool|pool)|.*_(head|dist|pool)$|norm|cls_attn|post_network|aux"
    r"|blocks_token_only|aggregate|msfa"
)
_IGNORED = (nn.Identity, nn.Dropout)
_SWITCHES = (
    "global_pool", "pool_type", "num_prefix_tokens", "distilled_training", "use_mlp_head", "mix_token", "encoder_pool",
    "pool_include_prefix", "output_fmt", "num_branches", "use_aux_head", "fork_feat",
)  # fmt: skip


def signature(model: nn.Module) -> str:
    """Module file, class, the trunk's last block, the layers after the trunk without their sizes, tokens, switches."""
    trunk, head = _parts(model)
    tokens = sorted({n.rpartition(".")[2] for n, _ in model.named_parameters() if "token" in n.rpartition(".")[2]})
    switches = [f"{k}={getattr(model, k)}" for k in _SWITCHES if isinstance(getattr(model, k, None), (str, int, bool))]
    file = type(model).__module__.rpartition(".")[2]
    layers = [f"{name}({', '.join(_layers(module))})" for name, module in head]
    return " ".join([f"{file}.{type(model).__name__}", f"[{_last_block(trunk)}]", *layers, *tokens, *switches])


def _parts(model: nn.Module) -> tuple[nn.Module | None, list[tuple[str, nn.Module]]]:
    children = list(model.named_children())
    large = [i for i, (name, m) in enumerate(children) if not _HEAD.match(name) and len(list(m.modules())) >= 8]
    last = large[-1] if large else -1
    head = [(n, m) for i, (n, m) in enumerate(children) if i > last or n in ("head", "classifier", "fc")]
    return (children[last][1] if large else None), [(n, m) for n, m in head if list(_layers(m))]


def _last_block(trunk: nn.Module | None) -> str:
    """The class of the last block: containers are opened."""
    while trunk is not None and isinstance(trunk, (nn.Sequential, nn.ModuleList)) and len(trunk):
        trunk = trunk[-1]
    inner = next((m for m in reversed(list(trunk.children())) if _blocks(m)), None) if trunk is not None else None
    return f"{type(trunk).__name__}{'>' + _last_block(inner) if inner is not None else ''}"


def _blocks(module: nn.Module) -> bool:
    """Whether a stage's child is its list of blocks."""
    return isinstance(module, (nn.Sequential, nn.ModuleList)) and any(len(list(m.modules())) >= 4 for m in module)


def _layers(module: nn.Module) -> Iterator[str]:
    for layer in module.modules():
        if isinstance(layer, _IGNORED) or "Drop" in type(layer).__name__ or next(layer.children(), None) is not None:
            continue
        kind = type(layer).__name__
        pool = getattr(layer, "pool_type", None)
        kernel = getattr(layer, "kernel_size", None)
        if pool is not None:
            kind += f":{pool}"
        elif kernel is not None and "Conv" in kind:
            kind += ":1" if set(kernel) == {1} else ":k"
        elif "Pool" in kind:
            output = getattr(layer, "output_size", None)
            kind += ":1" if output in (1, (1, 1), (1, 1, 1)) else ":n"
        yield kind


def _token_head(model: nn.Module) -> bool:
    """Whether class tokens feed the head: there are some, and no option pools the places instead."""
    tokens = any(re.search(r"(cls|class|dist)_token", n) for n, _ in model.named_parameters())
    return tokens and str(getattr(model, "global_pool", "token")) in ("token", "cls", "")


def _heads(model: nn.Module) -> int:
    """Linear heads: `head` with a second one beside it, or a list of heads."""
    lists = [m for n, m in model.named_children() if n.startswith("head") and isinstance(m, nn.ModuleList)]
    return max([1, *(len(m) for m in lists)]) + any(n in ("head_dist", "aux_head") for n, _ in model.named_children())
