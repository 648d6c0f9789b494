"""Whole recipes by name: settings of training and of reading, as YAML files beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pellucid.errors import OptionError, nearest

_PLACE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The recipes there are."""
    return tuple(sorted(p.stem for p in _PLACE.glob("*.yaml")))


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a recipe. Raises `OptionError` for an unknown one."""
    if name not in names():
        raise OptionError(
            f"There is no recipe '{name}'.", why=f"There are {', '.join(names())}.", hint=nearest(name, names())
        )
    settings: dict[str, Any] = yaml.safe_load((_PLACE / f"{name}.yaml").read_text(encoding="utf-8"))
    return settings


__all__ = ["names", "settings_of"]
