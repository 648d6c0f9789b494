"""`pellucid serve`: what it refuses, and that it runs."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pellucid
from app.kit import form
from cli.conftest import refused, run  # noqa: F401
from cli.kit import Run


def test_others_are_not_served_without_a_token(refused: Run, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    for host in ("0.0.0.0", "::", "192.0.2.1", "scans.example.org"):
        assert "--token-file" in refused(2, "serve", folder, "--host", host).err
    (tmp_path / "token").write_text("short\n")
    assert "openssl" in refused(2, "serve", folder, "--host", "0.0.0.0", "--token-file", tmp_path / "token").err
    refused(3, "serve", folder, "--token-file", tmp_path / "none")


def test_what_cannot_be_served(refused: Run, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    refused(3, "serve", tmp_path / "none", "--port", 0)
    refused(3, "serve", tmp_path, "--port", 0)
    refused(2, "serve", "pellucid:none", "--port", 0)
    refused(3, "serve", folder, "--port", 0, "--data", tmp_path / "none")
    refused(2, "serve", folder, "--port", 0, "--backend", "none")
    refused(2, "serve")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port" in refused(2, "serve", folder, "--port", taken.getsockname()[1]).err


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and the address that it prints."""
    source = str(Path(pellucid.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "importtime", "-m", "pellucid", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"Open (http://\S+)", line)
            if found:
                assert not [m for m in said if re.search(r"\| +(torchvision|timm|captum|matplotlib)$", m)]
                yield process, found[1]
                break
        else:
            pytest.fail("".join(said[-20:]))
    finally:
        process.kill()
        process.communicate()


def test_it_runs_until_interrupted(folder: Path, tmp_path: Path, photo: Path) -> None:
    """With a token; nothing is imported that would make its start slow, and nobody who listens keeps it from ending."""
    token = "0123456789abcdef"
    (tmp_path / "token").write_text(token + "\n")
    given = ("--token-file", tmp_path / "token", "--jobs", tmp_path / "jobs.db")
    with serving(folder, *given) as (process, address):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/v1/models").close()
        asked = urllib.request.Request(f"{address}/v1/models", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked) as answer:
            assert [m["id"] for m in json.load(answer)["models"]] == ["softcam", "plain"]
        with listening(address, token, photo):
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=10)[1]
        assert process.returncode == 0
        assert "Traceback" not in said


@contextmanager
def listening(address: str, token: str, photo: Path) -> Iterator[None]:
    """Whoever follows a long job."""
    body, headers = form(photo.read_bytes(), part="files", method="rise", options='{"masks": 4000}')
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    known = {"Authorization": f"Bearer {token}"}
    connection.request("POST", "/v1/jobs", body, {**headers, **known})
    job = json.load(connection.getresponse())["id"]
    connection.request("GET", f"/v1/jobs/{job}/events", headers=known)
    with connection.getresponse() as events:
        assert events.readline() == b"event: job\n"
        yield
    connection.close()
