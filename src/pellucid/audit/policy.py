"""What an audit is held to: purpose in words, what to look at, and limits. Read from YAML; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pellucid.errors import BadInput, OptionError, nearest


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Purpose(_Part):
    """In the words of whoever answers for the network; nothing of it is ever made up."""

    intended_use: str | None = None
    intended_user: str | None = None
    out_of_scope: str | None = None
    oversight: str | None = None


class DataNotes(_Part):
    """What the data cannot say of themselves."""

    sources: str | None = None
    licence: str | None = None
    exclusions: str | None = None


class Plans(_Part):
    """What happens after the audit."""

    monitoring: str | None = None
    review_triggers: str | None = None


class Limit(_Part):
    """What a figure may be."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> Limit:
        if self.at_least is None and self.at_most is None:
            raise ValueError("at_least or at_most is needed")
        return self

    def __str__(self) -> str:
        asked = {"at least": self.at_least, "at most": self.at_most}
        return " and ".join(f"{word} {value:g}" for word, value in asked.items() if value is not None)


class Policy(_Part):
    """Everything that an audit is told.

    positive: the class whose log-odds are followed (default: the last). threshold: of its probability, from which on the
    answer is yes; prevalence: where the network is used. zones: where no reason should lie (see `pellucid.audit.zones`);
    tags: whether drawings that come back are looked for. subgroups: columns of the samples' notes; minimum_n: samples
    below which nothing is told of a subgroup. least_effect: log-odds, what a zone has to do to matter. limits: figure ->
    limit; judged_by "interval": the whole interval has to lie within it, "estimate": the value.
    """

    title: str | None = None
    purpose: Purpose = Purpose()
    data: DataNotes = DataNotes()
    plans: Plans = Plans()
    positive: str | None = None
    threshold: float = Field(0.5, gt=0, lt=1)
    prevalence: float | None = Field(None, gt=0, lt=1)
    zones: tuple[str, ...] = ("corners", "border")
    tags: bool = True
    subgroups: tuple[str, ...] = ()
    minimum_n: int = Field(20, ge=1)
    least_effect: float = Field(0.25, gt=0)
    judged_by: Literal["interval", "estimate"] = "interval"
    limits: Mapping[str, Limit] = {}

    def __init__(self, **values: Any) -> None:
        _check_keys(values, type(self), "")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error) from error

    def changed(self, **values: Any) -> Policy:
        """The same policy with some values changed, checked like a new one."""
        return Policy(**{**self.model_dump(), **values})


def read_policy(path: str | Path) -> tuple[Policy, dict[str, int]]:
    """The policy in a YAML file, and the line in which each limit stands.

    Raises `BadInput` for no file, `OptionError` for what is in it; an unknown key is answered with the nearest known one.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"The policy {path} cannot be read.", why=str(error), hint="Check the path.", path=path
        ) from error
    except yaml.YAMLError as error:
        raise OptionError(
            f"{path} is not YAML.", why=" ".join(str(error).split()), hint="Write `key: value` lines.", path=path
        ) from error
    if not isinstance(values, dict | None):
        raise OptionError(
            f"{path} holds no policy.", why=f"It is a {type(values).__name__}.", hint="Write `key: value` lines.", path=path
        )  # fmt: skip
    return Policy(**{str(k): v for k, v in (values or {}).items()}), _lines(text)


def _lines(text: str) -> dict[str, int]:
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if root is not None else ():
        if key.value == "limits" and isinstance(value.value, list):
            return {name.value: name.start_mark.line + 1 for name, _ in value.value}
    return {}


def _check_keys(values: Mapping[str, Any], model: type[BaseModel], inside: str) -> None:
    """Raise `OptionError` for a key that the policy does not know, at any depth."""
    for key, value in values.items():
        if key not in model.model_fields:
            raise OptionError(f"The policy has no key '{inside}{key}'.", hint=nearest(key, model.model_fields))
        kind = model.model_fields[key].annotation
        if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, BaseModel):
            _check_keys(value, kind, f"{inside}{key}.")
        elif isinstance(value, Mapping) and key == "limits":
            for name, limit in value.items():
                _check_keys(limit if isinstance(limit, Mapping) else {}, Limit, f"limits.{name}.")


def _explained(error: ValidationError) -> OptionError:
    """The first complaint of pydantic as one of ours."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return OptionError(
        f"The policy's '{where}' cannot be {first['input']!r}.", why=f"{first['msg']}.", hint="See docs/audit.md for the keys and their ranges."
    )  # fmt: skip
