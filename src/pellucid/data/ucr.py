"""Time series in the text formats of the UCR and UEA archives: `.ts`, `.arff`, and tables with the label first."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from pellucid.data.image_file import check_options
from pellucid.errors import BadInput, OptionError, nearest
from pellucid.sample import Facts, Sample

MOST_BYTES = 1 << 29  # of a file
MOST_LETTERS = 1 << 23  # of a line
MOST_CHANNELS = 4096
MISSING = "?"


@dataclass(frozen=True)
class Signals:
    """How a series becomes an input, and how its time and its classes are told.

    normalise: "none" keeps the file's values; "series" brings every channel of every series to mean 0 and standard
    deviation 1 (a channel that never changes to 0), which forgets how high and how large it was. rate: samples per `unit`
    of time, for the axes of pictures; None counts time in samples. names: label in the file -> class; labels may share
    one. Labels without a name keep their own.
    """

    normalise: Literal["none", "series"] = "none"
    rate: float | None = None
    unit: str = "s"
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "series"):
            raise OptionError(
                f"There is no normalise '{self.normalise}'.", hint=nearest(str(self.normalise), ("none", "series"))
            )
        if self.rate is not None and not (isinstance(self.rate, int | float) and 0 < self.rate < float("inf")):
            raise OptionError(
                f"rate is {self.rate!r}.", why="It is how many samples there are in one second.", hint="Give rate=250."
            )
        if not isinstance(self.names, Mapping):
            raise OptionError(
                f"names is {self.names!r}.",
                why="It says which label has which name.",
                hint="Give names='{1: normal, 2: ill}'.",
            )
        object.__setattr__(self, "names", {_label(str(k)): str(v) for k, v in self.names.items()})


@dataclass(frozen=True)
class Series:
    """One line of a file. channels: the numbers as text, read when asked for. wrong: why the line cannot be used."""

    path: Path
    line: int
    name: str
    label: str | None
    channels: tuple[str, ...]
    separator: str | None = ","
    wrong: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and values, 0 values where the channels differ."""
        lengths = {len(c.split()) if self.separator is None else c.count(self.separator) + 1 for c in self.channels}
        return len(self.channels), lengths.pop() if len(lengths) == 1 else 0

    def values(self) -> Float[np.ndarray, "channels time"]:
        """The numbers. Raises `BadInput` for missing ones and for what is none."""
        try:
            found = np.array([[float(v) for v in self._cells(c)] for c in self.channels])
        except ValueError as error:
            raise self.bad(f"holds what is no number: {error}", "Mend the line.") from error
        absent = int((~(np.abs(found) <= np.finfo(np.float32).max)).sum())
        if absent:
            raise self.bad(
                f"has {absent} of {found.size} values missing or not finite.",
                "Fill them in first, by interpolation for example.",
            )
        return found

    def _cells(self, channel: str) -> list[str]:
        return ["nan" if cell.strip() == MISSING else cell for cell in channel.split(self.separator)]

    def bad(self, what: str, hint: str, why: str = "") -> BadInput:
        return BadInput(f"{self.path.name}, line {self.line} {what}", why=why, hint=hint, path=self.path)


@dataclass(frozen=True)
class SignalSet:
    """A data set of series of one shape. A bad line raises `BadInput` when it is read, not before."""

    series: tuple[Series, ...]
    shape: tuple[int, int]
    classes: tuple[str, ...] = ()
    preparation: Signals = field(default_factory=Signals)

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Sample:
        one = self.series[index]
        if one.wrong:
            raise one.bad(one.wrong, "Mend or remove the line.")
        if one.shape != self.shape:
            raise one.bad(
                f"has {_counted(one.shape)}.",
                "Cut, pad or resample all series to one length first.",
                f"Most have {_counted(self.shape)}.",
            )
        values = one.values()
        if self.preparation.normalise == "series":
            values = _standardised(values)
        return Sample(
            input=torch.from_numpy(values.astype(np.float32)),
            label=self._class(one),
            name=one.name,
            meta={"path": str(one.path), "line": one.line, "label": one.label},
        )

    def _class(self, one: Series) -> int | None:
        if one.label is None or one.wrong:
            return None
        return self.classes.index(self.preparation.names.get(one.label, one.label))

    def facts(self, index: int) -> Facts:
        return Facts(self.series[index].name, self._class(self.series[index]), "")

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the series, their labels and the preparation. Where the files lie does not matter."""
        digest = hashlib.sha256(json.dumps([self.classes, asdict(self.preparation)], sort_keys=True).encode())
        for one in self.series:
            digest.update(json.dumps([one.name, one.label, one.channels]).encode())
        return digest.hexdigest()


def ucr(
    source: str | Path | Sequence[str | Path], *, classes: Sequence[str] | None = None, **options: Any
) -> SignalSet:
    """The series of one file, or of several in turn. The name of a file may follow the word `ucr:`.

    `.ts` and `.arff` as the archives write them, also with several channels; any other text file is a table with one
    series per line, the label first, between commas, semicolons, tabs or blanks, with or without a header. Numbers that
    stand for labels are read as whole numbers: 1.0 is the class "1".
    Series have one length: the most frequent one; a line of another length, with missing values (`?`, NaN) or without a
    known label is bad when it is read. classes: names in order; left out: those of the file's header, or else the labels
    that occur, sorted. Other options are those of `Signals`.

    Raises `BadInput` for a file that is none of these and `OptionError` for classes that do not fit.
    """
    check_options(options, ucr, Signals)
    preparation = Signals(**options)
    paths = [source] if isinstance(source, str | Path) else list(source)
    _check_names(paths)
    files = [_read(Path(str(path).removeprefix("ucr:"))) for path in paths]
    series = tuple(one for file in files for one in file.series)
    shape = Counter(one.shape for one in series if not one.wrong).most_common(1)
    if not shape:
        raise BadInput(
            f"{paths[0] if paths else 'The list'} holds no series.",
            why=series[0].wrong.capitalize() if series else "It has no lines of data.",
            hint="Give one series per line, the label first, or a .ts file.",
            path=paths[0] if paths else None,
        )
    declared = tuple(dict.fromkeys(label for file in files for label in file.labels))
    return SignalSet(series, shape[0][0], _classes(series, declared, classes, preparation), preparation)


def _check_names(paths: Sequence[str | Path]) -> None:
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) < len(stems):
        raise OptionError(
            "Two files have one name.",
            why=f"Samples are named after their files: {', '.join(stems)}.",
            hint="Rename one of them.",
        )


def _classes(
    series: Sequence[Series], declared: Sequence[str], asked: Sequence[str] | None, preparation: Signals
) -> tuple[str, ...]:
    """Names in order: as asked, else as declared in a header, else as found."""
    found = {one.label for one in series if one.label is not None and not one.wrong}
    order = declared or sorted(found, key=lambda t: (not _is_number(t), float(t) if _is_number(t) else 0, t))
    named = tuple(dict.fromkeys(preparation.names.get(label, label) for label in order))
    if preparation.names and not set(preparation.names) & set(order):
        raise OptionError(
            f"There is no label '{min(preparation.names)}' to be named.",
            why=f"Labels: {', '.join(order)}.",
            hint="Give names='{LABEL: NAME, ...}'.",
        )
    if asked is None:
        return named
    wanted = tuple(str(c) for c in asked)
    for name in named:
        if name not in wanted:
            raise OptionError(
                f"The class '{name}' is not among those that were given.",
                why=f"Classes: {', '.join(wanted)}.",
                hint=nearest(name, wanted),
            )
    return wanted


def _standardised(values: Float[np.ndarray, "channels time"]) -> Float[np.ndarray, "channels time"]:
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    shown: Float[np.ndarray, "channels time"] = np.zeros_like(centred)
    np.divide(centred, spread, out=shown, where=spread > 1e-12 * np.abs(values).max())
    return shown


def _counted(shape: tuple[int, int]) -> str:
    channels, length = shape
    each = f"{length} values" if length else "unequal numbers of values"
    return each if channels == 1 else f"{channels} channels of {each}"


# --- the formats --------------------------------------------------------------------------------------------------------

Line = tuple[int, str]


@dataclass(frozen=True)
class _File:
    """What a file holds. labels: those that its header declares, in order."""

    series: tuple[Series, ...]
    labels: tuple[str, ...] = ()


def _read(path: Path) -> _File:
    lines = [(number, line.strip()) for number, line in enumerate(_text(path).split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and line[0] not in "#%"]
    long = next((number for number, line in lines if len(line) > MOST_LETTERS), None)
    if long is not None:
        raise BadInput(
            f"{path}, line {long} is longer than {MOST_LETTERS >> 20} MiB.",
            why="Every series has a line of its own.",
            hint="Cut the series, or check that the file is one of series.",
            path=path,
        )
    data = next((k for k, (_, line) in enumerate(lines) if line.lower() == "@data"), None)
    if data is None and path.suffix.lower() in (".ts", ".arff"):
        raise BadInput(
            f"{path} is not a file of time series.",
            why="It has no line '@data'.",
            hint="Give a .ts or .arff file of the UCR or UEA archive, whole.",
            path=path,
        )
    if data is None:
        return _table(path, lines)
    header, rows = [line for _, line in lines[:data]], lines[data + 1 :]
    arff = any(line.lower().startswith("@attribute") for line in header)
    return _arff(path, header, rows) if arff else _ts(path, header, rows)


def _text(path: Path) -> str:
    """The file's text; most are UTF-8, descriptions of older ones Latin-1."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(
                f"{path} is too large.", why=f"At most {MOST_BYTES >> 20} MiB are read.", hint="Split it.", path=path
            )
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read.",
            why=error.strerror or str(error),
            hint="Name one file of series, .ts, .arff, .txt, .csv or .tsv.",
            path=path,
        ) from error
    if b"\0" in content:
        raise BadInput(f"{path} is not text.", why="It holds zero bytes.", hint="Give a text file.", path=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _ts(path: Path, header: Sequence[str], rows: Sequence[Line]) -> _File:
    """Channels between colons, the label last."""
    words = {key.lower(): value.split() for key, _, value in (line[1:].partition(" ") for line in header)}
    for key, why in (("timestamps", "It has a time for every value."), ("targetlabel", "It has numbers, not classes.")):
        if words.get(key, ["false"])[0].lower() == "true":
            raise BadInput(
                f"{path} is a kind of .ts file that is not read.",
                why=why,
                hint="Give evenly sampled series with classes.",
                path=path,
            )
    declared = words.get("classlabel", ["true"])
    labelled = declared[0].lower() == "true"
    labels = tuple(_label(word) for word in declared[1:])
    made = _headed(path, rows, ":", lambda text: text.split(":", MOST_CHANNELS), labels, labelled)
    equal = words.get("equallength", ["true"])[0].lower() == "true"
    for key, axis in (("dimensions", 0), ("serieslength", 1)):
        told = words.get(key, [""])[0]
        if told and made.series and (equal or axis == 0):
            _as_declared(path, key, told, [one.shape[axis] for one in made.series if not one.wrong])
    return made


def _as_declared(path: Path, key: str, told: str, found: Sequence[int]) -> None:
    """Refuse a header whose numbers are those of other data: half the file may be missing."""
    if found and told not in {str(n) for n in found}:
        raise BadInput(
            f"{path} declares @{key} {told[:20]}.",
            why=f"Its lines have {Counter(found).most_common(1)[0][0]}.",
            hint="Get the file again, or mend its header.",
            path=path,
        )


def _arff(path: Path, header: Sequence[str], rows: Sequence[Line]) -> _File:
    """Values between commas, the label last; several channels as one quoted text with a written `\\n` between them."""
    nominal = [re.search(r"\{(.*)\}", line) for line in header]
    found = [match for match in nominal if match]
    labels = tuple(_label(word) for word in found[-1].group(1).split(",")) if found else ()
    return _headed(path, rows, ",", lambda text: text.strip("'\"").split("\\n", MOST_CHANNELS), labels, bool(found))


def _headed(
    path: Path, rows: Sequence[Line], before: str, channels: Callable[[str], list[str]], labels: tuple[str, ...], labelled: bool
) -> _File:  # fmt: skip
    """The lines below a header: channels, then the label behind the last `before`."""
    series = []
    for name, (number, line) in zip(_names(path, len(rows)), rows, strict=True):
        text, found, last = line.rpartition(before) if labelled else (line, before, "")
        label = _label(last) if labelled else None
        wrong = "" if found and text else "has no label."
        if not wrong and label is not None and labels and label not in labels:
            wrong = f"has the label '{label[:40]}', which the header does not declare."
        series.append(Series(path, number, name, label, tuple(channels(text)), wrong=wrong))
    return _File(tuple(series), labels)


def _table(path: Path, lines: Sequence[Line]) -> _File:
    """The label first, then the values of one channel."""
    separator = next((s for s in ",;\t" if lines and s in lines[0][1]), None)
    rows = [(number, line.split(separator, 1)) for number, line in lines]
    if rows and len(rows[0][1]) == 2 and not _is_value(rows[0][1][1].split(separator)[0]):
        rows = rows[1:]  # a header
    series = []
    for name, (number, cells) in zip(_names(path, len(rows)), rows, strict=True):
        label = _label(cells[0])
        wrong = "" if len(cells) == 2 else "has a label and no values."
        if _is_number(label) and not label.lstrip("-").isdecimal():
            wrong = f"starts with {label[:20]}, which is no class: the first column holds the labels."
        series.append(Series(path, number, name, label, (cells[-1].strip(),), separator, wrong))
    return _File(tuple(series))


def _names(path: Path, count: int) -> list[str]:
    return [f"{path.stem}-{k:0{len(str(count))}d}" for k in range(1, count + 1)]


def _label(text: str) -> str:
    """A label as it is called: whole numbers without decimals, words without quotes."""
    plain = text.strip().strip("'\"")
    return str(int(float(plain))) if _is_number(plain) and float(plain).is_integer() else plain


def _is_value(text: str) -> bool:
    return _is_number(text) or text.strip() == MISSING


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
