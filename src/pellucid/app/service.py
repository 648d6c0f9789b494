"""What all routes share: the served networks, the inputs they were sent, and how a question becomes an explanation.

question ── input (kept, or uploaded) ── read for the network (reading threads) ── Worker ──> Explained
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from fastapi import Request
from torch import Tensor

from pellucid import api, spatial
from pellucid.app import uploads
from pellucid.app.batching import Slots, Work, Worker
from pellucid.app.kept import Kept
from pellucid.app.menu import check_options
from pellucid.app.passes import Pass, Replayed
from pellucid.app.problems import Refused
from pellucid.app.schemas import FeatureMapsQuestion, Question
from pellucid.app.served import Served
from pellucid.app.uploads import Shown, Upload, Wish
from pellucid.call import weights_device
from pellucid.errors import BadInput, OptionError, PellucidError, nearest
from pellucid.explanation import Explanation
from pellucid.sample import Dataset
from pellucid.targets.protocol import AGAINST

T = TypeVar("T")

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Settings:
    """Limits of the service; `limits.py` and the routes keep them.

    data: source of the gallery. jobs: the file that keeps them, None: there are none. hosts: names by which the service may
    be called. token: its SHA-256, None: none is asked for. bytes: of a request. queue: requests at a time, and jobs that are
    not over. seconds: until an answer begins. kept_bytes: of files, inputs and evidence in memory. readers: threads that
    read files and write answers.
    """

    data: str | None = None
    jobs: Path | None = None
    hosts: frozenset[str] = LOOPBACK
    token: bytes | None = None
    bytes: int = 32 << 20
    queue: int = 64
    seconds: float = 30.0
    kept_bytes: int = 512 << 20
    readers: int = 2


@dataclass(frozen=True)
class File:
    """A file that a client sent."""

    data: bytes
    name: str


@dataclass(frozen=True)
class Explained:
    """An answered question. shown: the input for people, with what was erased of it; found: the pass, of evidence."""

    served: Served
    input_id: str
    upload: Upload
    shown: Shown
    explanation: Explanation
    found: Pass | None

    @property
    def one(self) -> Explanation:
        return self.explanation[0]


class Service:
    """The state behind the routes (`request.app.state.service`)."""

    def __init__(self, models: Mapping[str, Served], settings: Settings) -> None:
        self.models, self.settings = dict(models), settings
        self.worker = Worker()
        self.slots = Slots(settings.queue, self.worker)
        self.files: Kept[File] = Kept(settings.kept_bytes // 2)
        self._uploads: Kept[Upload] = Kept(settings.kept_bytes // 4)
        self._passes: Kept[Pass] = Kept(settings.kept_bytes // 4)
        self._readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="pellucid-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="pellucid-writer")
        self._data: dict[str, Dataset] = {}

    def close(self) -> None:
        self.worker.close()
        for threads in (self._readers, self._writer):
            threads.shutdown(wait=False, cancel_futures=True)

    def served(self, name: str) -> Served:
        """The network of this id; empty: the first. Raises `Refused` (404)."""
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(404, f"There is no network '{name}'.", hint=nearest(name, self.models))
        return self.models[name]

    def data(self, served: Served) -> Dataset:
        """The gallery's data as the network wants them. Raises `Refused` (404) where none were named."""
        if self.settings.data is None:
            raise Refused(404, "There is no data set.", hint="Start the server with --data SOURCE.")
        if served.id not in self._data:
            self._data[served.id] = served.dataset(self.settings.data)
        return self._data[served.id]

    # --- inputs ---

    def keep(self, data: bytes, name: str) -> str:
        """Keep a file and give its id; the same bytes under another name are another file, whose name is its sender's."""
        uploads.kind_of(data, name)
        id = hashlib.sha256(name.encode("utf-8", "replace") + b"\0" + data).hexdigest()[:32]
        self.files.put(id, File(data, name), len(data))
        return id

    def file(self, id: str) -> File:
        """Raises `Refused` (404) for an input that was forgotten, or never sent."""
        found = self.files.get(id)
        if found is None:
            raise Refused(
                404,
                "The input is not known.",
                detail="Inputs are kept in memory for a while.",
                hint="Send the file again.",
            )
        return found

    async def reading(self, work: Callable[[], T]) -> T:
        """Do something that takes processor time but no network, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def writing(self, work: Callable[[], T]) -> T:
        """Write a file, one at a time: Matplotlib's settings are the whole process's."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    def upload(self, served: Served, id: str, wish: Wish) -> Upload:
        """The input ready for a network; read once for each preparation."""
        key = (served.id, id, wish)
        known = self._uploads.get(key)
        if known is None:
            known = self._from_data(served, id) if id.startswith("data-") else self._from_file(served, id, wish)
            self._uploads.put(key, known, 4 * (known.sample.input.numel() + known.shown.values.numel()))
        return known

    def _from_file(self, served: Served, id: str, wish: Wish) -> Upload:
        file = self.file(id)
        upload = uploads.read(served.network, served.shape, file.data, file.name, wish)
        return replace(upload, sample=upload.sample.changed(name=file.name))

    def _from_data(self, served: Served, id: str) -> Upload:
        data, number = self.data(served), id.removeprefix("data-")
        if not (number.isdecimal() and len(number) < 10 and int(number) < len(data)):
            raise Refused(404, "The data set has no such input.", hint=f"It holds {len(data)}: data-0, data-1, ...")
        sample = data[int(number)]
        uploads.check_suits(sample, served.shape)
        if served.rank == 1:
            return Upload(sample, uploads.series_shown(sample, data))
        return Upload(sample, Shown(uploads.shown_of(served.network, sample)))

    # --- explaining ---

    async def explained(self, question: Question, *, target: Any = None, patient: bool = False) -> Explained:
        """The answer to a question about an input that is kept. Raises `PellucidError` or `Refused`.

        target: what is explained, where it is known better than in words. patient: while nobody else waits.
        """
        served = self.served(question.model)
        method = question.method or served.default_method
        options = checked_options(served, method, question)
        upload, x, shown = await self.reading(lambda: self.input(served, question))
        key = (served.id, question.input_id, question.slice, question.window, str(question.erase))
        ask = _Ask(served, x, meant(question.target, served) if target is None else target, method, options, key)
        kind = (served.id, method, x.shape) if method == "evidence" else None
        run = self._evidence if method == "evidence" else _alone
        try:
            explanation = await self.worker.do(Work(served, kind, ask, run, patient))
        except (RuntimeError, ValueError) as error:
            raise _not_taken(served, x, error) from error
        _check_finite(explanation)
        found = self._passes.get(key) if method == "evidence" else None
        return Explained(served, question.input_id, upload, shown, explanation, found)

    def input(self, served: Served, question: Question | FeatureMapsQuestion) -> tuple[Upload, Tensor, Shown]:
        """The upload, what the network is given of it, and what a person is shown."""
        upload = self.upload(served, question.input_id, Wish(question.slice, question.window))
        if not question.erase:
            return upload, upload.x, upload.shown
        shown = replace(upload.shown, values=erased(upload.shown.values[None], question.erase)[0])
        return upload, erased(upload.x, question.erase), shown

    def _evidence(self, asks: Sequence[_Ask]) -> list[Any]:
        """The evidence of all from one forward pass; an input whose pass is known takes no part in it."""
        fresh = list({ask.key: ask for ask in asks if self._passes.get(ask.key) is None}.values())
        known = {ask.key: self._passes.get(ask.key) for ask in asks}
        if fresh:
            passes = asks[0].served.passes
            assert passes is not None
            made = passes(torch.cat([ask.x for ask in fresh]))
            for ask, found in zip(fresh, made, strict=True):
                known[ask.key] = found
                self._passes.put(ask.key, found, found.bytes)
        return [_replayed(ask, known[ask.key]) for ask in asks]


@dataclass(frozen=True)
class _Ask:
    """One explanation to make. key: of the input as the network sees it."""

    served: Served
    x: Tensor
    target: Any
    method: str
    options: Mapping[str, Any]
    key: Any


def _replayed(ask: _Ask, found: Pass | None) -> Any:
    """The explanation, or the error it fails with, so that one wrong target does not fail the others."""
    assert found is not None
    served = ask.served
    try:
        seen = Replayed(served.network, found, served.task, served.names)
        made = api.explain(seen, ask.x, ask.target, method="evidence", **ask.options)
    except PellucidError as error:
        return error
    truth = {"network": type(served.network).__name__, "device": str(weights_device(served.network))}
    return replace(made, provenance={**made.provenance, **truth})


def _alone(asks: Sequence[_Ask]) -> list[Any]:
    (ask,) = asks
    served = ask.served
    return [
        api.explain(
            served.network, ask.x, ask.target, method=ask.method, task=served.task, classes=served.names, **ask.options
        )
    ]


def checked_options(served: Served, method: str, question: Question) -> dict[str, Any]:
    """The method's options, checked. Raises `OptionError`."""
    if method not in served.methods:
        raise OptionError(f"{served.id} has no method '{method}'.", hint=nearest(method, served.methods))
    info = served.methods[method]
    check_options(info, question.options)
    if question.layer and not info.layer:
        raise OptionError(f"'{method}' takes no layer.", hint="Leave it out.")
    return {**question.options, **({"layer": question.layer} if question.layer else {})}


def meant(text: str, served: Served) -> str | None:
    """What the user means; "A-B" for two known classes is "A against B"."""
    if not text:
        return None
    known = {*served.classes, *map(str, range(len(served.classes)))}
    pieces = text.split("-")
    for k in range(1, len(pieces) if text not in known else 0):
        a, b = "-".join(pieces[:k]), "-".join(pieces[k:])
        if a in known and b in known:
            return f"{a}{AGAINST}{b}"
    return text


def erased(x: Tensor, boxes: Sequence[Sequence[float]]) -> Tensor:
    """The inputs with boxes replaced by a blurred copy. Raises `BadInput` for boxes of another rank."""
    mask = spatial.boxes_to_mask(boxes, x.shape[2:])
    if not mask.any():
        raise BadInput(
            "Nothing is erased.",
            why="The boxes hold no sample of the input.",
            hint="Give (x0, y0, x1, y1) in samples of the input.",
        )
    return torch.where(mask, spatial.blur(x), x)


def _not_taken(served: Served, x: Tensor, error: Exception) -> Exception:
    """What a network says to an input of another size than its own is about the input; else it is the error it is."""
    size = tuple(x.shape[1:])
    if size == served.shape:
        return error
    return BadInput(
        f"{served.id} cannot take inputs of shape {size}.",
        why=f"Its own are {served.shape}. {str(error).splitlines()[0][:200] if str(error) else ''}".strip(),
        hint="Send an input of its own size.",
    )


def _check_finite(explanation: Explanation) -> None:
    numbers = [explanation.map, explanation.score, explanation.logits]
    if not all(bool(n.isfinite().all()) for n in numbers if isinstance(n, Tensor)):
        raise BadInput(
            "The network's numbers for this input are not finite.",
            why="It overflows.",
            hint="Try another window or another input.",
        )


def service_of(request: Request) -> Service:
    """For the routes: `Annotated[Service, Depends(service_of)]`."""
    found: Service = request.app.state.service
    return found


__all__ = ["Explained", "Service", "Settings", "checked_options", "erased", "meant", "service_of"]
