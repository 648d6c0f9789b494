"""The settings of a training: one object that is printed, compared, read from YAML and written beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pellucid import files
from pellucid.errors import BadInput, OptionError, nearest
from pellucid.registry import look_up
from pellucid.training import PENALTIES

Augmentation = Literal["hflip", "vflip", "transpose", "rotate90"]

# Settings that say where and how fast, not what: a run may be resumed with other ones.
_MAY_DIFFER = ("device", "workers", "cache_mib", "save_every_steps")


class TrainingConfig(BaseModel):
    """Everything that decides a training, apart from network and data.

    Recipe: epochs, batch_size, lr, optimiser (sgd: Nesterov 0.9), weight_decay (on every parameter), schedule with
    warm_up (share of the steps; None: 0.3 for one_cycle, else 0). cosine_clipped falls per epoch and stops at a tenth.
    Penalty: a name of `PENALTIES` or "none", times `strength`, switched on after the share `penalty_warm_up` of the
    steps. penalty_classes: all evidence maps, the labelled class ("target"), or the labelled class minus the mean of
    the others ("contrast"). reduction: "mean", or "paper_sum" (sum over classes and cells, mean over the batch).
    l1_share: of elastic_net. compat="paper-code" repeats the published code: the first input of each batch only, sums,
    unsquared norm.
    Pooling: how evidence becomes a logit, a name of `models.pooling.POOLINGS`; "keep" leaves the network's own. Any other
    makes it a `MultiScale` with that pooling and the old weights before it is trained. pooling_sharpness: of lse;
    pooling_k: of top_k, cells or their share; pooling_hidden: width of gated_attention.
    Task: "auto" asks the network, then the labels. class_weights: "balanced" or one number per class.
    precision: "32" is the network's own, "bf16" autocast, "auto" bf16 where the hardware has it.
    augment: each op is applied to every input with probability one half (rotate90: a random quarter turn).
    freeze: module names whose parameters and statistics stay as they are.
    Validation: val_fraction of the groups is held out when no validation set is given; keep_best picks the weights
    that are returned; patience: epochs without improvement before stopping.
    max_images: a seeded choice of that many. max_bad: share of unreadable samples that are skipped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["one_cycle", "cosine", "cosine_clipped", "constant"] = "one_cycle"
    warm_up: float | None = Field(None, ge=0, lt=1)

    penalty: str = "none"
    strength: float = Field(0.0, ge=0)
    penalty_warm_up: float = Field(0.0, ge=0, lt=1)
    penalty_classes: Literal["all", "target", "contrast"] = "all"
    reduction: Literal["mean", "paper_sum"] = "mean"
    l1_share: float = Field(0.5, ge=0, le=1)
    compat: Literal["paper-code"] | None = None

    pooling: Literal["keep", "mean", "lse", "top_k", "gated_attention"] = "keep"
    pooling_sharpness: float = Field(1.0, gt=0)
    pooling_k: float = Field(0.1, gt=0)
    pooling_hidden: int = Field(64, ge=1)

    task: Literal["auto", "multiclass", "binary", "multilabel"] = "auto"
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    augment: tuple[Augmentation, ...] = ()
    freeze: tuple[str, ...] = ()

    val_fraction: float = Field(0.0, ge=0, lt=1)
    keep_best: Literal["last", "val_auc", "val_loss"] = "last"
    patience: int | None = Field(None, ge=1)
    max_images: int | None = Field(None, ge=1)
    max_bad: float = Field(0.1, ge=0, le=1)

    seed: int = 0
    precision: Literal["auto", "32", "bf16"] = "auto"
    device: str = "auto"
    threads: int = Field(1, ge=1)
    workers: int = Field(0, ge=0)
    cache_mib: int = Field(2048, ge=0)
    save_every_steps: int | None = Field(None, ge=1)

    def __init__(self, **values: Any) -> None:
        unknown = sorted(set(values) - set(type(self).model_fields))
        if unknown:
            raise OptionError(
                f"There is no training setting '{unknown[0]}'.", hint=nearest(unknown[0], type(self).model_fields)
            )
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error) from error

    @field_validator("precision", mode="before")
    @classmethod
    def _precision_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # YAML reads 32 as a number

    @field_validator("augment", "freeze", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("class_weights")
    @classmethod
    def _positive_weights(cls, value: Any) -> Any:
        if isinstance(value, tuple) and not all(0 <= w < float("inf") for w in value):
            raise ValueError("class weights are numbers that are not negative")
        return value

    @model_validator(mode="before")
    @classmethod
    def _dependent_defaults(cls, values: Any) -> Any:
        values = dict(values)
        if values.get("warm_up") is None:
            values["warm_up"] = 0.3 if values.get("schedule", "one_cycle") == "one_cycle" else 0.0
        if values.get("compat") == "paper-code":
            values.setdefault("reduction", "paper_sum")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.penalty == "none":
            if self.strength > 0:
                raise OptionError(
                    "A penalty strength was given without a penalty.",
                    why=f"strength is {self.strength}, penalty is 'none'.",
                    hint="Choose a penalty, for example penalty='l1'.",
                )
        else:
            look_up(PENALTIES, self.penalty, "penalty")
        if self.compat == "paper-code" and (self.reduction != "paper_sum" or self.penalty_classes != "all"):
            raise OptionError(
                "compat='paper-code' sums over all classes.",
                why=f"reduction='{self.reduction}' and penalty_classes='{self.penalty_classes}' were asked for.",
                hint="Leave both out, or leave compat out.",
            )
        return self

    def changed(self, **values: Any) -> TrainingConfig:
        """The same settings with some changed, checked like new ones."""
        return TrainingConfig(**{**self.model_dump(), **values})

    def decides(self) -> dict[str, Any]:
        """The settings that decide the result, as plain values: what a resumed run must share with the first."""
        return self.model_dump(mode="json", exclude=set(_MAY_DIFFER))

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The settings as YAML, written to `path` where one is given."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        if path is not None:
            files.write_text(path, text)
        return text

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainingConfig:
        """Read settings from a YAML file. Raises `BadInput` for no file, `OptionError` for what is in it."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(
                f"The settings {path} cannot be read.", why=str(error), hint="Check the path.", path=path
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise OptionError(
                f"{path} is not YAML.",
                why=" ".join(str(error).split()),
                hint="Write one 'name: value' per line.",
                path=path,
            ) from error
        if not isinstance(values, dict | None) or not all(isinstance(k, str) for k in values or {}):
            raise OptionError(
                f"{path} holds no settings.",
                why=f"It is a {type(values).__name__}.",
                hint="Write one 'name: value' per line.",
                path=path,
            )
        return cls(**(values or {}))


def _explained(error: ValidationError) -> OptionError:
    """The first complaint of pydantic as one of ours."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    allowed = first.get("ctx", {}).get("expected")
    hint = (
        nearest(str(first["input"]), str(allowed).replace("'", "").replace(" or ", ", ").split(", "))
        if allowed
        else "See TrainingConfig for the settings and their ranges."
    )
    return OptionError(
        f"The training setting '{name}' cannot be {first['input']!r}.", why=f"{first['msg']}.", hint=hint
    )


__all__ = ["TrainingConfig"]
