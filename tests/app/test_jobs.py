"""Many inputs at once: the same numbers, progress that is told, and nothing lost when the server ends."""

from __future__ import annotations

import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import pellucid
from app.kit import ask, client_of, numbers, problem
from app.test_serve_command import serving
from cli.kit import picture
from pellucid.app.job_store import TRIES, JobStore
from pellucid.app.schemas import Question
from pellucid.app.served import Served
from pellucid.app.service import Settings
from pellucid.errors import BadInput, OptionError

QUESTION = Question(model="softcam", method="evidence", target="pear").model_dump_json()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / "photos" / f"{k}.png", k) for k in range(6)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def working(models: dict[str, Served], place: Path, photos: list[Path]) -> Iterator[TestClient]:
    """A server with jobs, and with these photos as its data set."""
    with client_of(models, Settings(jobs=place, data=str(photos[0].parent))) as client:
        yield client


def begin(client: TestClient, files: list[Path] | None = None, **fields: str) -> Any:
    sent = [("files", (file.name, file.read_bytes())) for file in files or ()]
    answer = client.post("/v1/jobs", files=sent or None, data=fields)
    assert answer.status_code == 202, answer.text[:500]
    told = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{told['id']}"
    return told


def over(client: TestClient, id: str, seconds: float = 30) -> Any:
    """The job when it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        told = client.get(f"/v1/jobs/{id}").json()
        if told["status"] in ("finished", "failed"):
            return told
        time.sleep(0.02)
    pytest.fail(f"not over: {told}")


def events(client: TestClient, id: str, **headers: str) -> list[tuple[str, str, Any]]:
    """(id, name, data) of all until the job's end."""
    answer = client.get(f"/v1/jobs/{id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip().split("\n\n"):
        told = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if told:
            found.append((told.get("id", ""), told["event"], json.loads(told["data"])))
    return found


def test_every_input_gets_what_it_would_get_alone(working: TestClient, photos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "cut.png"
    bad.write_bytes(photos[0].read_bytes()[:60])
    begun = begin(working, [*photos[:2], bad, photos[2]], target="pear against plum")
    told = over(working, begun["id"])
    assert (told["status"], told["total"], told["finished"], told["failed"]) == ("finished", 4, 3, 1)
    assert (told["model"], told["method"], told["target"]) == ("softcam", "evidence", "pear against plum")
    answer = working.get(f"/v1/jobs/{begun['id']}/result")
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    assert sorted(archive.namelist()) == ["00000-0.json", "00000-0.npz", "00001-1.json", "00001-1.npz", "00003-2.json", "00003-2.npz", "job.json"]  # fmt: skip
    listed = json.loads(archive.read("job.json"))["inputs"]
    assert [(i["name"], bool(i["problem"])) for i in listed] == [("0.png", False), ("1.png", False), ("cut.png", True), ("2.png", False)]  # fmt: skip
    for file, name in zip(photos[:3], ("00000-0", "00001-1", "00003-2"), strict=True):
        alone = ask(working, file, file.name, target="pear against plum")
        told = json.loads(archive.read(f"{name}.json"))
        arrays = np.load(io.BytesIO(archive.read(f"{name}.npz")))
        assert [row["label"] for row in told["ledger"]] == [row["label"] for row in alone["ledger"]]
        assert [row["value"] for row in told["ledger"]] == pytest.approx([row["value"] for row in alone["ledger"]], abs=1e-5)  # fmt: skip
        np.testing.assert_allclose(arrays["map"][0], numbers(alone["map"]), atol=1e-5)
        assert arrays["map"][0].tobytes() == numbers(told["map"]).tobytes()
        assert told["input_id"] == alone["input_id"]


def test_progress_is_told(working: TestClient, photos: list[Path]) -> None:
    id = begin(working, photos)["id"]
    found = events(working, id)
    items = [(number, data) for number, name, data in found if name == "item"]
    assert [number for number, _ in items] == [str(k) for k in range(1, 7)]
    assert sorted(data["number"] for _, data in items) == list(range(6))
    assert {data["status"] for _, data in items} == {"finished"}
    assert [name for _, name, _ in found].count("end") == 1
    assert found[-1][1] == "end"
    assert found[-1][2] == working.get(f"/v1/jobs/{id}").json()
    seen = [data["finished"] for _, name, data in found if name == "job"]
    assert seen == sorted(seen)
    later = events(working, id, **{"Last-Event-ID": "4"})
    assert [(number, name) for number, name, _ in later] == [("5", "item"), ("6", "item"), ("", "end")]


def test_the_data_set(working: TestClient) -> None:
    told = over(working, begin(working, data="true", model="plain")["id"])
    assert (told["status"], told["finished"], told["method"]) == ("finished", 6, "grad_cam")


def test_nothing_could_be_explained(working: TestClient, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:60])
    assert over(working, begin(working, [tmp_path / "cut.png"])["id"])["status"] == "failed"


def test_a_job_is_deleted_and_its_bytes_with_it(models: dict[str, Served], place: Path, photos: list[Path]) -> None:
    """Also those of an input that ended: no trace of a picture is left in the file."""
    with client_of(models, Settings(jobs=place)) as client:
        id = begin(client, photos[:2])["id"]
        over(client, id)
        assert client.delete(f"/v1/jobs/{id}").status_code == 204
        for route in ("", "/events", "/result"):
            problem(client.get(f"/v1/jobs/{id}{route}"), 404)
        problem(client.delete(f"/v1/jobs/{id}"), 404)
    assert photos[0].read_bytes()[100:164] not in place.read_bytes()
    assert not list(place.parent.glob("jobs.db-*"))
    assert place.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": "sofcam"}, 404, "softcam"), ({"method": "grad-cam"}, 422, "grad_cam"), ({"target": "peer"}, 422, "pear"),
        ({"target": "7"}, 422, "7"), ({"options": '{"colour": 1}'}, 422, "colour"), ({"data": "true"}, 422, "both"),
        ({"colour": "red"}, 422, "colour"), ({"erase": "{"}, 422, "erase"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_once(
    working: TestClient, photos: list[Path], fields: dict[str, str], status: int, word: str
) -> None:
    answer = working.post("/v1/jobs", files=[("files", ("a.png", photos[0].read_bytes()))], data=fields)
    told = problem(answer, status)
    assert word in " ".join([told["title"], told["detail"], told["hint"]])


def test_no_such_job(working: TestClient, client: TestClient) -> None:
    problem(working.post("/v1/jobs", data={"target": "pear"}), 422)
    problem(working.post("/v1/jobs", files=[("files", ("a.bin", b"\0\1\2"))]), 422)
    problem(working.get("/v1/jobs/none"), 404)
    assert "--jobs" in problem(client.post("/v1/jobs", files=[("files", ("a.png", b"x"))]), 404)["hint"]


def test_too_many_files(working: TestClient) -> None:
    problem(working.post("/v1/jobs", files=[("files", (f"{k}.txt", b"1,0.5\n")) for k in range(1001)]), 400)


def test_too_many_jobs(models: dict[str, Served], place: Path, photos: list[Path]) -> None:
    with client_of(models, Settings(jobs=place, queue=2)) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.explained = _never
        begun = [begin(client, photos[:1])["id"] for _ in range(2)]
        answer = client.post("/v1/jobs", files=[("files", ("a.png", photos[0].read_bytes()))])
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert problem(client.get(f"/v1/jobs/{begun[1]}/result"), 409)["detail"] == "0 of 1 are done."
        client.delete(f"/v1/jobs/{begun[1]}")
        begin(client, photos[:1])


async def _never(*args: Any, **options: Any) -> Any:
    import asyncio

    await asyncio.sleep(100)


# --- the server ends ------------------------------------------------------------------------------------------------


def filled(place: Path, photos: list[Path], jobs: int = 1) -> list[str]:
    """Jobs that no server has begun."""
    store = JobStore(place)
    ids = [store.add(QUESTION, [(p.name, p.read_bytes()) for p in photos]).id for _ in range(jobs)]
    store.close()
    return ids


def test_a_job_goes_on_where_it_stopped(models: dict[str, Served], place: Path, photos: list[Path]) -> None:
    (id,) = filled(place, photos)
    store = JobStore(place)
    for item in store.take(id, 4)[:2]:
        store.finish(id, item.number, b"arrays", "{}")
    store.close()
    with client_of(models, Settings(jobs=place)) as client:
        told = over(client, id)
        archive = zipfile.ZipFile(io.BytesIO(client.get(f"/v1/jobs/{id}/result").content))
    assert (told["status"], told["finished"]) == ("finished", 6)
    assert archive.read("00001-1.npz") == b"arrays", "what was done is not done again"
    assert json.loads(archive.read("00002-2.json"))["score"]


def test_what_ends_the_server_is_not_tried_for_ever(place: Path, photos: list[Path]) -> None:
    (id,) = filled(place, photos[:2])
    for k in range(TRIES):
        store = JobStore(place)
        assert [item.number for item in store.take(id, 1)] == [0], k
        store.close()
    store = JobStore(place)
    assert [item.number for item in store.take(id, 4)] == [1]
    (ended,) = store.ended(id, 0)
    assert (ended.number, ended.status, ended.problem) == (0, "failed", "The server ended each time it was tried.")
    store.close()


def test_what_the_new_server_does_not_have(models: dict[str, Served], place: Path, photos: list[Path]) -> None:
    store = JobStore(place)
    gone = store.add(QUESTION.replace("softcam", "older"), [("a.png", photos[0].read_bytes())])
    other = store.add(QUESTION, [("data-0", None)], data="elsewhere")
    store.close()
    with client_of(models, Settings(jobs=place, data=str(photos[0].parent))) as client:
        assert over(client, gone.id)["reason"] == "older is not served any more."
        told = over(client, other.id)
    assert (told["status"], told["reason"]) == ("failed", "Its data set is not served any more.")


KILLED = """
import sys
from pathlib import Path
from pellucid.app.job_store import JobStore
store = JobStore(Path(sys.argv[1]))
while (job := store.next()) is not None:
    for item in store.take(job.id, 4):
        store.finish(job.id, item.number, bytes(1000), "{}")
        print(item.number, flush=True)
    if store.job(job.id).finished == job.total:
        store.end(job.id)
"""


def test_killed_at_any_moment(models: dict[str, Served], place: Path, photos: list[Path]) -> None:
    """Fifty jobs; the process that works on them is killed five times and leaves a whole store each time."""
    ids = filled(place, photos[:2], 50)
    source = str(Path(pellucid.__file__).parents[1])
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(place)], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": source})  # fmt: skip
        assert process.stdout is not None
        for _ in range(15):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    store = JobStore(place)
    counted = [store.job(id) for id in ids]
    store.close()
    done = sum(job.finished for job in counted if job is not None)
    assert 75 <= done < 100
    with client_of(models, Settings(jobs=place)) as client:
        told = [over(client, id, 60) for id in ids]
    assert {t["status"] for t in told} == {"finished"}
    assert sum(t["finished"] + t["failed"] for t in told) == 100


@pytest.mark.slow
def test_a_server_that_is_killed(folder: Path, place: Path, photos: list[Path]) -> None:
    """`kill -9` during fifty jobs; after a restart each is finished, or failed."""
    import httpx

    done = 0
    with serving(folder, "--jobs", place) as (process, address), httpx.Client(base_url=address, timeout=30) as client:
        slow = {"method": "rise", "options": '{"masks": 200}'}
        ids = [begin(client, photos[:2], **slow)["id"] for _ in range(50)]  # type: ignore[arg-type]
        while done < 20:
            time.sleep(0.1)
            done = sum(client.get(f"/v1/jobs/{id}").json()["finished"] for id in ids)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with serving(folder, "--jobs", place) as (_, address), httpx.Client(base_url=address, timeout=30) as client:
        told = [over(client, id, 300) for id in ids]  # type: ignore[arg-type]
        assert client.get(f"/v1/jobs/{ids[-1]}/result").status_code == 200
    print(
        f"killed after {done} of 100 inputs;", {s: sum(t["status"] == s for t in told) for s in ("finished", "failed")}
    )
    assert {t["status"] for t in told} <= {"finished", "failed"}
    assert sum(t["finished"] for t in told) >= 96  # four were at work


# --- the file -------------------------------------------------------------------------------------------------------


def test_one_server_at_a_time(place: Path) -> None:
    store = JobStore(place)
    with pytest.raises(OptionError, match="cannot be used"):
        JobStore(place)
    store.close()
    JobStore(place).close()


def test_another_file(tmp_path: Path) -> None:
    (tmp_path / "words.db").write_text("no database " * 100)
    with pytest.raises(BadInput, match="holds no jobs"):
        JobStore(tmp_path / "words.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE jobs (id)")
    other.commit()
    other.close()
    with pytest.raises(BadInput, match="another database"):
        JobStore(tmp_path / "other.db")
    with pytest.raises((OptionError, BadInput)):
        JobStore(tmp_path)
