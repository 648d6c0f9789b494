"""Jobs in one SQLite file, so that they outlive the process: what was asked, the files that came with it, and what was
made of each.

The file belongs to one process at a time. What is deleted from it is overwritten.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pellucid.errors import BadInput, OptionError, ResourceError

Status = Literal["waiting", "running", "finished", "failed"]

FORMAT = 1
MOST_KEPT = 1000  # jobs that have ended
TRIES = 3  # of one input: what ended the process each time is not tried for ever
_TABLES = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, question TEXT NOT NULL, data TEXT, status TEXT NOT NULL DEFAULT 'waiting',
    reason TEXT NOT NULL DEFAULT '', begun REAL NOT NULL, ended REAL);
CREATE TABLE items (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, number INTEGER NOT NULL, name TEXT NOT NULL, file BLOB,
    status TEXT NOT NULL DEFAULT 'waiting', tries INTEGER NOT NULL DEFAULT 0, place INTEGER, problem TEXT NOT NULL DEFAULT '',
    arrays BLOB, answer TEXT, PRIMARY KEY (job, number));
"""


@dataclass(frozen=True)
class Job:
    """question: JSON of `schemas.Question`. data: the data source it is about, None: about files. begun: when it was
    sent (seconds since 1970). reason: why it failed. total, finished, failed: of its inputs.
    """

    id: str
    question: str
    data: str | None
    status: Status
    reason: str
    begun: float
    total: int
    finished: int
    failed: int

    @property
    def over(self) -> bool:
        return self.status in ("finished", "failed")


@dataclass(frozen=True)
class Item:
    """One input of a job. file: its bytes, None for one of a data set. place: the how-manieth it was that ended, from 1."""

    number: int
    name: str
    file: bytes | None
    status: Status
    place: int | None
    problem: str


@dataclass(frozen=True)
class Result:
    """arrays: NPZ; answer: JSON. Both None for an input that failed, with its problem."""

    number: int
    name: str
    arrays: bytes | None
    answer: str | None
    problem: str


class JobStore:
    """Used from several threads. Raises `OptionError` for a file in use, `BadInput` for one that is no such store."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = _opened(path)
        with self._lock, self._db:
            self._db.execute("UPDATE jobs SET status = 'waiting' WHERE status = 'running'")
            tired = "SELECT job, number FROM items WHERE status = 'waiting' AND tries >= ?"
            for job, number in self._db.execute(tired, (TRIES,)).fetchall():
                self.fail(job, number, "The server ended each time it was tried.")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- jobs ---

    def add(self, question: str, inputs: Sequence[tuple[str, bytes | None]], data: str | None = None) -> Job:
        """A new job on (name, bytes) of its inputs; those of a data set have no bytes.

        Raises `ResourceError` where the disk is full.
        """
        id = uuid4().hex
        rows = [(id, number, name, file) for number, (name, file) in enumerate(inputs)]
        try:
            with self._lock, self._db:
                self._db.execute("INSERT INTO jobs (id, question, data, begun) VALUES (?, ?, ?, ?)", (id, question, data, time.time()))  # fmt: skip
                self._db.executemany("INSERT INTO items (job, number, name, file) VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise ResourceError("The job cannot be kept.", why=str(error), hint="Free some space.") from error
        found = self.job(id)
        assert found is not None
        return found

    def job(self, id: str) -> Job | None:
        counts = "count(*), coalesce(sum(i.status = 'finished'), 0), coalesce(sum(i.status = 'failed'), 0)"
        columns = "j.id, j.question, j.data, j.status, j.reason, j.begun"
        row = self._row(f"SELECT {columns}, {counts} FROM jobs j JOIN items i ON i.job = j.id WHERE j.id = ? GROUP BY j.id", id)  # fmt: skip
        return None if row is None else Job(*row)

    def next(self) -> Job | None:
        """The oldest job that is not over."""
        row = self._row("SELECT id FROM jobs WHERE status IN ('waiting', 'running') ORDER BY begun LIMIT 1")
        return None if row is None else self.job(row[0])

    def unfinished(self) -> int:
        row = self._row("SELECT count(*) FROM jobs WHERE status IN ('waiting', 'running')")
        assert row is not None
        return int(row[0])

    def end(self, id: str, reason: str = "") -> None:
        """It failed where there is a reason, or nothing of it could be explained. Old ones are forgotten."""
        with self._lock, self._db:
            self._db.execute(
                "UPDATE jobs SET ended = ?, reason = ?, status = CASE WHEN ? = '' AND EXISTS "
                "(SELECT 1 FROM items WHERE job = id AND status = 'finished') THEN 'finished' ELSE 'failed' END WHERE id = ?",
                (time.time(), reason, reason, id),
            )
            self._db.execute("UPDATE items SET file = NULL WHERE job = ?", (id,))
            self._db.execute("DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT -1 OFFSET ?)", (MOST_KEPT,))  # fmt: skip

    def delete(self, id: str) -> bool:
        """Whether there was such a job."""
        with self._lock, self._db:
            return self._db.execute("DELETE FROM jobs WHERE id = ?", (id,)).rowcount > 0

    # --- their inputs ---

    def take(self, id: str, most: int) -> list[Item]:
        """The next inputs that wait; that they were tried is noted first."""
        with self._lock, self._db:
            self._db.execute("UPDATE jobs SET status = 'running' WHERE id = ?", (id,))
            found = self._items("job = ? AND status = 'waiting' ORDER BY number LIMIT ?", id, most)
            self._db.executemany("UPDATE items SET tries = tries + 1 WHERE job = ? AND number = ?", [(id, item.number) for item in found])  # fmt: skip
        return found

    def finish(self, id: str, number: int, arrays: bytes, answer: str) -> None:
        self._settle(id, number, "finished", arrays, answer, "")

    def fail(self, id: str, number: int, problem: str) -> None:
        self._settle(id, number, "failed", None, None, problem)

    def _settle(
        self, id: str, number: int, status: str, arrays: bytes | None, answer: str | None, problem: str
    ) -> None:
        """Its file is not needed any more."""
        with self._lock, self._db:
            self._db.execute(
                "UPDATE items SET status = ?, arrays = ?, answer = ?, problem = ?, file = NULL, "
                "place = (SELECT 1 + count(place) FROM items WHERE job = ?) WHERE job = ? AND number = ?",
                (status, arrays, answer, problem, id, id, number),
            )

    def ended(self, id: str, after: int) -> list[Item]:
        """The inputs that ended, in that order, beyond the first `after`."""
        return self._items("job = ? AND place > ? ORDER BY place", id, after)

    def results(self, id: str) -> Iterator[Result]:
        """Of all inputs, read one by one."""
        query = "SELECT number, name, arrays, answer, problem FROM items WHERE job = ? AND number = ?"
        for number in range(job.total if (job := self.job(id)) else 0):
            row = self._row(query, id, number)
            if row is None:  # deleted meanwhile
                return
            yield Result(*row)

    def _items(self, where: str, *values: Any) -> list[Item]:
        with self._lock, closing(self._db.execute(f"SELECT number, name, file, status, place, problem FROM items WHERE {where}", values)) as rows:  # fmt: skip
            return [Item(*row) for row in rows]

    def _row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        with self._lock:
            found: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            return found


def _opened(path: Path) -> sqlite3.Connection:
    """For this process and its user alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        db = sqlite3.connect(path, timeout=1, check_same_thread=False)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    except (sqlite3.OperationalError, OSError) as error:
        raise OptionError(
            f"The jobs in {path} cannot be used.",
            why=str(error),
            hint="Another server may use it, or it cannot be written.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise BadInput(f"{path} holds no jobs.", why=str(error), hint="Name a new file.", path=path) from error
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Take the file for this process, and make the tables in an empty one."""
    for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "foreign_keys = ON", "secure_delete = ON"):
        db.execute(f"PRAGMA {setting}").fetchall()
    (known,) = db.execute("PRAGMA user_version").fetchone()
    if known == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        db.executescript(f"BEGIN EXCLUSIVE; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
    elif known == FORMAT:
        db.executescript("BEGIN EXCLUSIVE; COMMIT;")
    else:
        raise BadInput(f"{path} holds no jobs.", why="It is another database.", hint="Name a new file.", path=path)


__all__ = ["FORMAT", "MOST_KEPT", "TRIES", "Item", "Job", "JobStore", "Result"]
