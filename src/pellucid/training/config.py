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

Augmentation = Literal["hflip", "vflip", "transpose", "rotate90", "crop", "rotation", "translation", "jitter"]

# Settings that say where and how fast, not what: a run may be resumed with other ones.
_MAY_DIFFER = ("device", "workers", "cache_mib", "save_every_steps", "compile", "track")
_PUBLISHED = ("l1", "l2", "l2_norm", "elastic_net")


class TrainingConfig(BaseModel):
    """Everything that decides a training, apart from network and data.

    Recipe: epochs, batch_size, lr, optimiser (sgd: Nesterov 0.9), weight_decay (on every parameter), schedule with
    warm_up (share of the steps; None: 0.3 for one_cycle, else 0). cosine_clipped falls per epoch and stops at a tenth.
    trunk_lr: times lr for all that is not the head. accumulate: every batch is worked through in that many pieces, to
    save memory: the same step as in one piece, but for batch statistics and dropout.
    Penalty: a name of `PENALTIES` or "none", times `strength`, switched on after the share `penalty_warm_up` of the
    steps and rising to full strength over the share `penalty_ramp`. penalty_classes: all evidence maps, the labelled
    class ("target"), or the labelled class minus the mean of the others ("contrast"). reduction: "mean", or "paper_sum"
    (sum over classes and cells, mean over the batch). l1_share: of elastic_net. log_sum_scale: in logits, of log_sum.
    compat="paper-code" repeats the published code: the first input of each batch only, sums, unsquared norm.
    Pooling: how evidence becomes a logit, a name of `models.pooling.POOLINGS`; "keep" leaves the network's own. Any other
    makes it a `MultiScale` with that pooling and the old weights before it is trained. pooling_sharpness: of lse;
    pooling_k: of top_k, cells or their share; pooling_hidden: width of gated_attention.
    Task: "auto" asks the network, then the labels. class_weights: "balanced" or one number per class. sampling:
    "balanced" draws every class equally often, with replacement. label_smoothing: share of the label that is spread
    over the classes. focal_gamma: 0 is cross-entropy; larger ones weigh down what is already right (focal loss).
    Validation losses are plain cross-entropy.
    precision: "32" is the network's own, "bf16" autocast, "auto" bf16 where the hardware has it. compile: by
    `torch.compile`.
    augment: each op is applied to every input with probability one half (rotate90: a random quarter turn), and moves
    the masks along. crop_scale, crop_ratio: area and proportions of what is cut out and scaled back; rotation_degrees:
    largest angle; translation_share: largest shift, of the side; jitter: of brightness, contrast, saturation, hue.
    laterality: whether the side matters in these data; then flips are warned of.
    freeze: module names whose parameters and statistics stay as they are.
    Validation: val_fraction of the groups is held out when no validation set is given; keep_best picks the weights
    that are returned; patience: epochs without improvement of that score (of the loss for "last") before stopping.
    max_images: a seeded choice of that many. max_bad: share of unreadable samples that are skipped.
    seed: of everything that is drawn; split_seed: of folds and held-out groups (None: `seed`). track: "tensorboard"
    writes tb/ into the run folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["one_cycle", "cosine", "cosine_clipped", "constant"] = "one_cycle"
    warm_up: float | None = Field(None, ge=0, lt=1)
    trunk_lr: float = Field(1.0, ge=0)
    accumulate: int = Field(1, ge=1)

    penalty: str = "none"
    strength: float = Field(0.0, ge=0)
    penalty_warm_up: float = Field(0.0, ge=0, lt=1)
    penalty_ramp: float = Field(0.0, ge=0, le=1)
    penalty_classes: Literal["all", "target", "contrast"] = "all"
    reduction: Literal["mean", "paper_sum"] = "mean"
    l1_share: float = Field(0.5, ge=0, le=1)
    log_sum_scale: float = Field(0.1, gt=0)
    compat: Literal["paper-code"] | None = None

    pooling: Literal["keep", "mean", "lse", "top_k", "gated_attention"] = "keep"
    pooling_sharpness: float = Field(1.0, gt=0)
    pooling_k: float = Field(0.1, gt=0)
    pooling_hidden: int = Field(64, ge=1)

    task: Literal["auto", "multiclass", "binary", "multilabel"] = "auto"
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    focal_gamma: float = Field(0.0, ge=0)
    augment: tuple[Augmentation, ...] = ()
    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    rotation_degrees: float = Field(15.0, ge=0, le=180)
    translation_share: float = Field(0.1, ge=0, lt=1)
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.1)
    laterality: bool = False
    freeze: tuple[str, ...] = ()

    val_fraction: float = Field(0.0, ge=0, lt=1)
    keep_best: Literal["last", "val_auc", "val_loss", "val_accuracy", "val_balanced_accuracy"] = "last"
    patience: int | None = Field(None, ge=1)
    max_images: int | None = Field(None, ge=1)
    max_bad: float = Field(0.1, ge=0, le=1)

    seed: int = 0
    split_seed: int | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: bool = False
    device: str = "auto"
    threads: int = Field(1, ge=1)
    workers: int = Field(0, ge=0)
    cache_mib: int = Field(2048, ge=0)
    save_every_steps: int | None = Field(None, ge=1)
    track: Literal["none", "tensorboard"] = "none"

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

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("two positive numbers are needed, the smaller one first")
        return value

    @field_validator("jitter")
    @classmethod
    def _jitter_that_exists(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < 0 or value[3] > 0.5:
            raise ValueError("four numbers that are not negative are needed, the last (hue) at most 0.5")
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
            if self.compat == "paper-code":
                self._check_published()
        if self.focal_gamma and self.label_smoothing:
            raise OptionError(
                "A focal loss takes no smoothed labels.",
                why=f"focal_gamma is {self.focal_gamma:g}, label_smoothing {self.label_smoothing:g}.",
                hint="Leave one of them at 0.",
            )
        if self.sampling == "balanced" and self.class_weights == "balanced":
            raise OptionError(
                "Classes would be balanced twice.",
                why="sampling and class_weights are both 'balanced'.",
                hint="Leave one of them out.",
            )
        if self.compat == "paper-code" and (self.reduction != "paper_sum" or self.penalty_classes != "all"):
            raise OptionError(
                "compat='paper-code' sums over all classes.",
                why=f"reduction='{self.reduction}' and penalty_classes='{self.penalty_classes}' were asked for.",
                hint="Leave both out, or leave compat out.",
            )
        return self

    def _check_published(self) -> None:
        """Raise `OptionError` for what the published code does not do."""
        if self.penalty not in _PUBLISHED:
            raise OptionError(
                f"compat='paper-code' has no penalty '{self.penalty}'.",
                why=f"The published code knows {', '.join(_PUBLISHED)}.",
                hint="Leave compat out.",
            )
        if self.accumulate > 1:
            raise OptionError(
                "compat='paper-code' takes a batch in one piece.",
                why=f"Its penalty is that of the batch's first input; accumulate is {self.accumulate}.",
                hint="Leave one of them out.",
            )

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
