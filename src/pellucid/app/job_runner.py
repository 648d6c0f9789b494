"""What works through the jobs, a few inputs at a time and while nobody waits, and tells how far it is."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from pydantic import BaseModel

from pellucid.app.answers import answer
from pellucid.app.exports import npz
from pellucid.app.job_store import Item, Job, JobStore
from pellucid.app.problems import Refused
from pellucid.app.schemas import JobInfo, JobItem, Question
from pellucid.app.service import Service
from pellucid.errors import PellucidError

AT_A_TIME = 4  # inputs of a job: they share a pass, which those who wait for an explanation have to sit out
PAUSE = 5.0  # seconds, after which a full disk may have room again
SILENCE = 15.0  # seconds, after which a listener is told that the server is still there
_log = logging.getLogger("pellucid.app")


class Runner:
    """Works through the jobs, the oldest first."""

    def __init__(self, service: Service, store: JobStore) -> None:
        self.service, self.store = service, store
        self._changed = asyncio.Event()
        self._listened = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            changed = self._changed
            job = self.store.next()
            if job is None:
                await changed.wait()
                continue
            try:
                await self._work(job)
            except sqlite3.Error:
                _log.exception("a job cannot be written")
                await asyncio.sleep(PAUSE)
            except Exception:
                _log.exception("a job cannot go on")
                self.store.end(job.id, "Internal error.")

    def tell(self) -> None:
        """Wake whoever waits for something to have changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def hang_up(self) -> None:
        """End what listeners are told: the server is about to end, and waits for them."""
        self._listened = False
        self.tell()

    async def _work(self, job: Job) -> None:
        service, store = self.service, self.store
        reason = self._hindrance(job)
        items = [] if reason else await service.reading(lambda: store.take(job.id, AT_A_TIME))
        if items:
            question = Question.model_validate_json(job.question)
            await asyncio.gather(*(self._explain(job, question, item) for item in items))
        else:
            store.end(job.id, reason)
        self.tell()

    def _hindrance(self, job: Job) -> str:
        """Why a job that was sent to an earlier server cannot go on here; empty where it can."""
        model, settings = Question.model_validate_json(job.question).model, self.service.settings
        if model not in self.service.models:
            return f"{model} is not served any more."
        return "Its data set is not served any more." if job.data not in (None, settings.data) else ""

    async def _explain(self, job: Job, question: Question, item: Item) -> None:
        service, store, file = self.service, self.store, item.file
        try:
            id = item.name if file is None else service.keep(file, item.name)
            explained = await service.explained(question.model_copy(update={"input_id": id}), patient=True)

            def write() -> None:
                told = answer(explained, "float32", with_input=False).model_dump_json()
                store.finish(job.id, item.number, npz(explained.one), told)

            await service.reading(write)
        except PellucidError as error:
            store.fail(job.id, item.number, f"{error.message} {error.why}".strip())
        except Refused as error:
            store.fail(job.id, item.number, error.problem.title)
        except Exception:
            _log.exception("an input of a job failed")
            store.fail(job.id, item.number, "Internal error.")
        self.tell()

    async def events(self, id: str, after: int) -> AsyncIterator[str]:
        """The job as it is, every input that ended beyond the first `after`, and the job at its end."""
        while self._listened and (job := self.store.job(id)) is not None:
            changed = self._changed
            items = self.store.ended(id, after)
            for item in items:
                yield event("item", JobItem(number=item.number, name=item.name, status=item.status, problem=item.problem), item.place)  # fmt: skip
            after += len(items)
            if job.over:
                yield event("end", info(job))
                return
            yield event("job", info(job))
            try:
                await asyncio.wait_for(changed.wait(), SILENCE)
            except TimeoutError:
                yield ": still here\n\n"


def event(name: str, told: BaseModel, id: int | None = None) -> str:
    """As `text/event-stream` has it."""
    number = "" if id is None else f"id: {id}\n"
    return f"{number}event: {name}\ndata: {told.model_dump_json()}\n\n"


def info(job: Job) -> JobInfo:
    """What clients are told of it."""
    question = Question.model_validate_json(job.question)
    return JobInfo(
        id=job.id,
        status=job.status,
        model=question.model,
        method=question.method,
        target=question.target,
        total=job.total,
        finished=job.finished,
        failed=job.failed,
        begun=datetime.fromtimestamp(job.begun, UTC).isoformat(timespec="seconds"),
        reason=job.reason,
    )


__all__ = ["Runner", "info"]
