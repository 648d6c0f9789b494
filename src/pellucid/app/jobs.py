"""`/v1/jobs`: many inputs explained while nobody waits, with their progress, also across a restart.

POST ── JobStore (SQLite) ── Runner ──> events for whoever listens, and a zip of the results
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, Path, Request
from fastapi.responses import Response, StreamingResponse

from pellucid import targets
from pellucid.app import uploads
from pellucid.app.explaining import Shared, sent
from pellucid.app.exports import plain_name
from pellucid.app.gallery import MOST
from pellucid.app.job_runner import Runner, info
from pellucid.app.job_store import Job, JobStore
from pellucid.app.problems import Refused, answers
from pellucid.app.schemas import JobForm, JobInfo
from pellucid.app.service import Service, checked_options, meant

router = APIRouter(prefix="/v1")

_EVENT = {
    "type": "object",
    "description": "data: JSON of a JobInfo (job, end) or a JobItem (item).",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "enum": ["job", "item", "end"]},
        "data": {"type": "string"},
    },
    "required": ["event", "data"],
}


def _runner(request: Request) -> Runner:
    found: Runner | None = request.app.state.runner
    if found is None:
        raise Refused(404, "This server keeps no jobs.", hint="Start it with --jobs FILE.")
    return found


Running = Annotated[Runner, Depends(_runner)]
Id = Annotated[str, Path(max_length=80)]


def _known(runner: Runner, id: str) -> Job:
    found = runner.store.job(id)
    if found is None:
        raise Refused(404, "There is no such job.", hint="Jobs that were deleted, and old ones, are gone.")
    return found


@router.post("/jobs", status_code=202, response_model=JobInfo, responses=answers(404, 422))
async def begin(
    service: Shared, runner: Running, form: Annotated[JobForm, Form(media_type="multipart/form-data")]
) -> Response:
    """Explain many files, or the served data set, by one method. What was asked is checked at once, the inputs later."""
    with service.slots.one():
        served = service.served(form.model)
        question = form.question().model_copy(
            update={"model": served.id, "method": form.method or served.default_method}
        )
        checked_options(served, question.method, question)
        targets.parse(meant(question.target, served), task=served.task, classes=served.classes).resolve(served.output)
        source = service.settings.data if form.data else None
        inputs = await _inputs(service, form)
        if runner.store.unfinished() >= service.settings.queue:
            raise Refused(503, "Too many jobs are waiting.", hint="Try again later.", headers={"Retry-After": "30"})
        job = await service.reading(lambda: runner.store.add(question.model_dump_json(), inputs, source))
    runner.tell()
    told = sent(info(job))
    told.status_code, told.headers["Location"] = 202, f"/v1/jobs/{job.id}"
    return told


async def _inputs(service: Service, form: JobForm) -> Sequence[tuple[str, bytes | None]]:
    """(name, bytes) of the files; of the data set the ids of its inputs."""
    if form.data == bool(form.files):
        raise Refused(422, "Inputs are needed.", detail="Neither or both of files and data came.", hint="Send one.")
    if form.data:
        served = service.served(form.model)
        count = await service.reading(lambda: len(service.data(served)))
        return [(f"data-{k}", None) for k in range(min(count, MOST))]
    files = [(file.filename or "", await file.read()) for file in form.files]
    for name, data in files:
        uploads.kind_of(data, name)
    return files


@router.get("/jobs/{job}", response_model=JobInfo, responses=answers(404, 422))
async def one(runner: Running, job: Id) -> Response:
    """How far it is."""
    return sent(info(_known(runner, job)))


@router.delete("/jobs/{job}", status_code=204, response_class=Response, responses=answers(404, 422))
async def delete(service: Shared, runner: Running, job: Id) -> Response:
    """Stop it, and forget its inputs and results."""
    if not await service.reading(lambda: runner.store.delete(job)):
        _known(runner, job)
    runner.tell()
    return Response(status_code=204)


@router.get(
    "/jobs/{job}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}, **answers(404, 422)},
)
async def events(
    runner: Running,
    job: Id,
    last_event_id: Annotated[str, Header(max_length=20, description="Go on behind this event.")] = "",
) -> StreamingResponse:
    """Progress as server-sent events until the job is over: `job`, `item` for each input that ended, and `end`."""
    _known(runner, job)
    after = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    return StreamingResponse(runner.events(job, after), media_type="text/event-stream")


@router.get(
    "/jobs/{job}/result",
    response_class=Response,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}, **answers(404, 409, 422)},
)  # fmt: skip
async def result(runner: Running, job: Id) -> StreamingResponse:
    """A zip: `job.json`, and per input its numbers (NPZ, as of `/v1/export`) and its answer (JSON, as of `/v1/explain`)."""
    found = _known(runner, job)
    if not found.over:
        raise Refused(409, "The job is not over.", detail=f"{found.finished + found.failed} of {found.total} are done.")
    headers = {"Content-Disposition": f'attachment; filename="job-{found.id}.zip"'}
    return StreamingResponse(packed(runner.store, found), headers=headers, media_type="application/zip")


def packed(store: JobStore, job: Job) -> Iterator[bytes]:
    """The zip, piece by piece; of an input that failed it has its problem in `job.json`."""
    pipe, items = _Pipe(), []
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # arrays are packed already
        for result in store.results(job.id):
            name = f"{result.number:05d}-{plain_name(result.name)}"
            items.append({"name": result.name, "file": name, "problem": result.problem})
            if result.arrays is not None and result.answer is not None:
                archive.writestr(f"{name}.npz", result.arrays)
                archive.writestr(f"{name}.json", result.answer)
            yield pipe.taken()
        told = {**info(job).model_dump(), "inputs": items}
        archive.writestr("job.json", json.dumps(told, indent=1, ensure_ascii=False))
    yield pipe.taken()


class _Pipe(io.RawIOBase):
    """What is written can be taken out of it once."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held += data
        return len(data)

    def taken(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return held
