"""`pellucid doctor`: what this installation can do."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import util
from typing import Annotated

import typer

from pellucid import __version__
from pellucid.cli import options
from pellucid.cli.output import listed, show

NAME = "doctor"
HELP = "Say what this installation has. Versions, extras, devices, memory, disk."
EXAMPLES = ("pellucid doctor", "pellucid doctor --fast --json")

# module -> the extra that brings it
_EXTRAS = {
    "lightning_fabric": "train", "timm": "zoo", "pydicom": "medical", "nibabel": "medical", "fastapi": "serve",
    "onnxruntime": "export", "captum": "captum", "ray": "ray", "tensorboard": "track",
}  # fmt: skip
_CORE = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "safetensors", "matplotlib")


def run(
    fast: Annotated[bool, typer.Option("--fast", help="Do not load torch to look for accelerators.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    facts = {
        "pellucid": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "free disk": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
    }
    facts.update({name: _version(name) for name in _CORE})
    if not fast:
        facts["accelerators"] = _accelerators()
    for module, extra in _EXTRAS.items():
        facts[module] = "installed" if util.find_spec(module) else f'missing: pip install "pellucid[{extra}]"'
    if as_json:
        show(facts)
    else:
        print(listed(list(facts.items())))


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):  # not every system tells
        return "not known"


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing: reinstall pellucid"


def _accelerators() -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    return ", ".join(names) or "none (the CPU does everything, slower)"
