"""docs/serve.md: its curl line and its client do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.kit import Live
from cli.kit import picture
from pellucid.app.service import Settings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


def block(language: str, port: int, number: int = 0) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)[number]
    assert "127.0.0.1:8000" in found
    return str(found).replace("127.0.0.1:8000", f"127.0.0.1:{port}")


def test_the_python_client(
    live: Live, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("httpx")
    shutil.copy(photo, tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block("python", live()), "docs/serve.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "constant" in printed
    assert "residual" in printed
    assert scope["other"]["method"] == "grad_cam"  # type: ignore[index]


def test_many_files_at_once(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("httpx")
    for k in range(3):
        picture(tmp_path / "photos" / f"{k}.png", k)
    monkeypatch.chdir(tmp_path)
    port = live(Settings(jobs=tmp_path / "jobs.db"))
    exec(compile(block("python", port, 1), "docs/serve.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'finished': 3" in printed
    assert re.findall(r"^(\d\.png) -?\d+\.\d+$", printed, re.M) == ["0.png", "1.png", "2.png"]


def test_the_curl_line(live: Live, photo: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shutil.copy(photo, tmp_path / "photo.png")
    ended = subprocess.run(["bash", "-c", block("bash", live()).replace("curl", "curl -s")], capture_output=True, check=True, cwd=tmp_path)  # fmt: skip
    assert json.loads(ended.stdout)["target"]["text"] == "pear against plum"


def test_every_route_is_listed(client: object) -> None:
    document = client.get("/openapi.json").json()  # type: ignore[attr-defined]
    listed = re.findall(r"/[\w/{}\-]+", TEXT)
    routes = {re.sub(r"{\w+}", "{id}", path) for path in document["paths"]}
    assert not [route for route in routes if route not in listed]


def test_limits_are_those_of_the_service() -> None:
    from pellucid.app.gallery import MOST
    from pellucid.app.job_store import MOST_KEPT
    from pellucid.data.image_file import MOST_PIXELS

    usual = Settings()
    assert f"{usual.bytes >> 20} MiB | 413" in TEXT
    assert f"| {usual.queue} | 503" in TEXT
    assert f"| {usual.seconds:g} s | 504" in TEXT
    assert f"{MOST_PIXELS // 10**6} million" in TEXT
    assert f"{MOST:,} inputs" in TEXT
    assert f"the last {MOST_KEPT:,} jobs" in TEXT
    assert f"not over | {usual.queue} |" in TEXT
    assert f"{usual.kept_bytes >> 20} MiB" in TEXT
