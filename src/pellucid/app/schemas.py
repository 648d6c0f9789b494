"""What is asked of the service and what it answers; the OpenAPI document is made of these classes.

Numbers of maps travel as `Numbers`: base64 of little-endian values, signed and unnormalised, so that a page draws them
without asking again. Importing this needs no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, Json, field_validator

Dtype = Literal["float16", "float32"]
FileFormat = Literal["png", "npz", "nifti", "dicom-pm", "dicom-seg", "pdf"]
Box = Annotated[list[float], Field(min_length=2, max_length=6)]
Option = bool | int | float | str
_FILES = "JPEG, PNG, TIFF, WebP, DICOM, NIfTI (.nii, .nii.gz), .npz (MedMNIST layout), or a text file of series."
_HELD = "Id of an input that was sent before (`input_id` of an answer, or of the gallery)."


class Strict(BaseModel):
    """What is asked: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# --- what is asked ---------------------------------------------------------------------------------------------------


class Question(Strict):
    """What is to be explained, and how.

    model, method: names of `/v1/models`; empty: the first. target: empty for what the network answers, a class by name or
    number, "A against B", "A-B" or "A against the rest". erase: boxes in samples of the input, (x0, y0, x1, y1) for
    pictures, that are blurred before the network sees it. slice: which frame, slice or series of a file that holds several.
    window: (centre, width) of the grey values that the network is shown; left out: as the file or the network's training
    has it.
    """

    input_id: str = Field(default="", max_length=80, description=_HELD)
    model: str = Field(default="", max_length=200)
    method: str = Field(default="", max_length=100)
    target: str = Field(default="", max_length=400)
    layer: str = Field(default="", max_length=400)
    options: dict[str, Option] = Field(default_factory=dict, max_length=20)
    erase: list[Box] = Field(default_factory=list, max_length=100)
    slice: int | None = Field(default=None, ge=0)
    window: tuple[float, float] | None = None


class QuestionForm(Strict):
    """A question as a form; lists and options are JSON."""

    model: str = Field(default="", max_length=200)
    target: str = Field(default="", max_length=400)
    layer: str = Field(default="", max_length=400)
    erase: Json[list[Box]] = Field(default=[], max_length=100, description="JSON: boxes in samples of the input.")
    slice: int | None = Field(default=None, ge=0)
    window: Json[list[float]] = Field(default=[], max_length=2, description="JSON: [centre, width].")

    def question(self) -> Question:
        """The same without files."""
        own = {name: getattr(self, name) for name in Question.model_fields if name in type(self).model_fields}
        return Question(**{**own, "window": tuple(self.window) or None})

    @field_validator("window")
    @classmethod
    def _two(cls, window: list[float]) -> list[float]:
        if len(window) == 1:
            raise ValueError("a window has a centre and a width")
        return window


class InputForm(QuestionForm):
    """About a file, or an input that was sent before."""

    file: UploadFile | None = Field(default=None, description=_FILES)
    input_id: str = Field(default="", max_length=80, description=_HELD)


class MethodForm(QuestionForm):
    """With one method and its options."""

    method: str = Field(default="", max_length=100)
    options: Json[dict[str, Option]] = Field(default={}, max_length=20, description="JSON: the method's own options.")


class ExplainForm(InputForm, MethodForm):
    """`POST /v1/explain`. every_class: also the cells of all classes, where the network has evidence. with_input: also
    the input's values, which do not change from one method or target to the next.
    """

    dtype: Dtype = "float32"
    every_class: bool = False
    with_input: bool = True


class ExportForm(InputForm, MethodForm):
    """`POST /v1/export`. grid: of NIfTI: one voxel per sample of the input, or the map's own cells."""

    format: FileFormat
    grid: Literal["input", "cells"] = "input"


class CompareForm(InputForm):
    """`POST /v1/compare`. methods: left out: those that cost a pass or two. The controls are always added."""

    dtype: Dtype = "float32"
    methods: Json[list[str]] = Field(default=[], max_length=12, description="JSON: names of methods.")


class JobForm(MethodForm):
    """`POST /v1/jobs`, about files or, with `data`, about the inputs of the served data set (at most the first 1,000)."""

    files: list[UploadFile] = Field(default=[], max_length=1000, description=_FILES)
    data: bool = False


class FeatureMapsQuestion(Strict):
    """`POST /v1/feature-maps`. k: how many channels, those that add most to the target and those that take most from it."""

    input_id: str = Field(max_length=80, description=_HELD)
    model: str = Field(default="", max_length=200)
    layer: str = Field(default="", max_length=400)
    target: str = Field(default="", max_length=400)
    erase: list[Box] = Field(default_factory=list, max_length=100)
    slice: int | None = Field(default=None, ge=0)
    window: tuple[float, float] | None = None
    k: int = Field(default=16, ge=1, le=256)
    dtype: Dtype = "float32"


# --- what is answered ------------------------------------------------------------------------------------------------


class Numbers(BaseModel):
    """An array. data: base64 of its values, little-endian, the last axis fastest."""

    shape: list[int]
    dtype: Literal["float16", "float32"]
    data: str


class Problem(BaseModel):
    """An error (RFC 9457). title: what happened; detail: why; hint: what to do."""

    type: str
    title: str
    status: int
    detail: str = ""
    hint: str = ""


class OptionInfo(BaseModel):
    """An option of a method. low, high: bounds of a number; choices: of a word."""

    name: str
    kind: Literal["switch", "whole", "number", "choice"]
    default: Option | None
    choices: list[str] = []
    low: float | None = None
    high: float | None = None


class MethodInfo(BaseModel):
    """A method that suits a network. input_space: one value per sample of the input instead of per cell.

    passes: about how many forward passes an explanation takes, where that does not depend on the network or input.
    layer: whether it takes one.
    """

    name: str
    title: str
    paper: str
    input_space: bool
    control: bool
    complete: bool
    layer: bool
    passes: int | None
    options: list[OptionInfo]


class LayerInfo(BaseModel):
    """A layer with positions. convolution: whether it has filters to look at."""

    name: str
    channels: int
    grid: list[int]
    convolution: bool


class InputInfo(BaseModel):
    """What a network takes: channels, and samples per axis."""

    channels: int
    size: list[int]
    rank: int


class ModelInfo(BaseModel):
    """A served network.

    certificate: what its conversion vouches for. temperature: by which logits are divided for calibrated probabilities,
    found on predictions that the run keeps of inputs the network did not learn from; null where it keeps none.
    """

    id: str
    title: str
    kind: Literal["softcam", "network"]
    network: str
    task: str
    classes: list[str]
    input: InputInfo
    certificate: dict[str, Any] | None
    temperature: float | None
    calibration: str
    methods: list[MethodInfo]
    default_method: str
    layers: list[LayerInfo]
    notes: list[str]


class Models(BaseModel):
    """gallery: whether there is a data set to look at."""

    models: list[ModelInfo]
    gallery: bool
    limits: Limits


class Limits(BaseModel):
    """bytes: of a request's body. pixels: of a picture. queue: requests at a time. seconds: for an answer."""

    bytes: int
    pixels: int
    queue: int
    seconds: float


class TargetInfo(BaseModel):
    """What was explained. index, against: the class and the one it is compared with; null where that is none."""

    text: str
    index: int | None
    against: int | None


class Prediction(BaseModel):
    """The network's answer. probabilities: one per class; null for a regression. calibrated: with the temperature.

    answer: index of the class it decides for, null where it decides for none.
    """

    classes: list[str]
    logits: list[float]
    probabilities: list[float] | None
    calibrated: list[float] | None
    answer: int | None


class Map(Numbers):
    """A signed map. unit: of its values. complete: whether cells, constant and common add up to the score."""

    unit: str
    complete: bool


class GeometryInfo(BaseModel):
    """Cell i of an axis has its centre at sample `start + i * jump` of the input (0: the centre of the first)."""

    start: list[float]
    jump: list[float]
    grid: list[int]
    input_size: list[int]
    registered: bool


class ContributionsInfo(BaseModel):
    """cells + constant + common + residual = score. The cells are those of `map`."""

    constant: float
    common: float
    residual: float


class LedgerLine(BaseModel):
    """A part of the score. box: of a region, in samples of the input: (x0, y0, x1, y1) for pictures."""

    label: str
    value: float
    where: str
    box: list[int] | None


class Texts(BaseModel):
    """short: for everyone; technical: every number and setting."""

    short: str
    technical: str


class Window(BaseModel):
    """What is black and white: center - width / 2 and center + width / 2."""

    center: float
    width: float


class InputShown(BaseModel):
    """The input at the network's size, before normalisation: from 0 to 1, or (unit) in the values of the file.

    window: which of these the network is shown from black to white. slices, slice: how many frames, slices or series the
    file holds, and which of them this is. spacing: mm per sample of each axis. rate: samples of a series
    per rate_unit of time.
    """

    name: str
    rank: int
    size: list[int]
    values: Numbers
    window: Window | None
    spacing: list[float] | None
    unit: str | None
    slices: int
    slice: int
    rate: float | None
    rate_unit: str | None


class EveryClass(BaseModel):
    """cells (classes, *grid): what each cell adds to each logit; with `bias` they add up to the logits."""

    cells: Numbers
    bias: list[float]


class ExplanationAnswer(BaseModel):
    """`map`, `score`, `ledger` and the rest as `pellucid.explain` gives them. empty: no positive evidence."""

    input_id: str
    model: str
    method: str
    layer: str
    target: TargetInfo
    prediction: Prediction
    score: float
    map: Map
    geometry: GeometryInfo
    receptive_field: list[float] | None
    contributions: ContributionsInfo | None
    ledger: list[LedgerLine]
    text: Texts
    empty: bool
    every_class: EveryClass | None
    input: InputShown | None
    notes: list[str]
    provenance: dict[str, Any]


class MethodScores(BaseModel):
    """metrics: name -> value, null where it is not defined."""

    method: str
    control: bool
    metrics: dict[str, float | None]


class MetricInfo(BaseModel):
    """higher_is_better: null where neither direction is a virtue."""

    name: str
    title: str
    higher_is_better: bool | None


class Comparison(BaseModel):
    """The methods beside each other and beside the controls, all for one target, scored on the network itself.

    explanations are without their `input`. failed: method -> why it could not explain this.
    """

    input: InputShown
    explanations: list[ExplanationAnswer]
    scores: list[MethodScores]
    metrics: list[MetricInfo]
    failed: dict[str, str]


class FiltersAnswer(BaseModel):
    """Kernels (k, inputs, *size), longest first. channels: their numbers in the layer."""

    layer: str
    total: int
    channels: list[int]
    norms: list[float]
    kernels: Numbers
    groups: int
    colour: bool
    pointwise: bool


class ChannelInfo(BaseModel):
    """contribution: what a channel adds to the score; mean_response: of the channel over all places."""

    channel: int
    contribution: float
    mean_response: float


class FeatureMapsAnswer(BaseModel):
    """maps (k, *grid): responses of the channels; cells (k, *grid): what each place of them adds to the score."""

    layer: str
    target: str
    score: float
    constant: float
    residual: float
    complete: bool
    total: int
    channels: list[ChannelInfo]
    maps: Numbers
    cells: Numbers
    geometry: GeometryInfo


class GalleryItem(BaseModel):
    """One input of the data set.

    outside: share of the absolute evidence outside the mask, null without a mask. disagreement: the largest difference
    of a probability between the served networks, null with one. thumbnail: a data URI, empty for what is no picture.
    """

    input_id: str
    name: str
    label: str | None
    prediction: str
    probability: float | None
    loss: float | None
    outside: float | None
    disagreement: float | None
    thumbnail: str


class Gallery(BaseModel):
    """items: sorted, worst first. looked_at: of `total` inputs so far; `failed` of them could not be used."""

    total: int
    looked_at: int
    failed: int
    items: list[GalleryItem]


class RunDifference(BaseModel):
    """New minus old, with an interval over patients."""

    name: str
    method: str
    difference: float
    low: float
    high: float
    samples: int
    verdict: str | None


class RunsCompared(BaseModel):
    """words: the verdicts. performance, scores: one row per figure; those of scores name the method."""

    new: str
    old: str
    words: list[str]
    performance: list[RunDifference]
    scores: list[RunDifference]


class JobInfo(BaseModel):
    """finished, failed: of `total` inputs so far. begun: when it was sent. reason: why the whole job failed."""

    id: str
    status: Literal["waiting", "running", "finished", "failed"]
    model: str
    method: str
    target: str
    total: int
    finished: int
    failed: int
    begun: str
    reason: str


class JobItem(BaseModel):
    """An input of a job that ended. problem: why it could not be explained."""

    number: int
    name: str
    status: Literal["waiting", "running", "finished", "failed"]
    problem: str


class Held(BaseModel):
    """An input that is kept in memory: its name, and its size in bytes."""

    input_id: str
    name: str
    bytes: int


class Health(BaseModel):
    """status: "ok" or "ready"."""

    status: str


Models.model_rebuild()
