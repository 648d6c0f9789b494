"""Who may ask, how much and for how long; and that no client can keep the others waiting."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.kit import Live, client_of, form, problem
from app.test_serve_command import serving
from pellucid.app.limits import digest_of
from pellucid.app.served import Served
from pellucid.app.service import Settings

TOKEN = "a token that nobody guesses"
SLOW = {"method": "rise", "options": '{"masks": 4000}'}  # seconds on these networks
SOON = 5.0  # seconds: a busy machine keeps this; waiting for what must not be waited for takes longer


def post(port: int, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/explain", body, headers)
    answer = connection.getresponse()
    told = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return told


def get(port: int, path: str) -> tuple[int, str, float]:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, time.perf_counter() - start


def figure(port: int, name: str) -> int:
    found = re.search(rf"^pellucid_{name} (\d+)$", get(port, "/metrics")[1], re.M)
    assert found is not None
    return int(found[1])


def until(true: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


# --- how much --------------------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large(models: dict[str, Served], photo: Path) -> None:
    with client_of(models, Settings(bytes=10_000)) as client:
        told = problem(client.post("/v1/explain", files={"file": ("a.png", bytes(10_001))}), 413)
        assert "10000" in told["detail"] or "MiB" in told["detail"]


@pytest.mark.parametrize("length", ["-1", "many"])
def test_a_length_that_is_none(models: dict[str, Served], length: str) -> None:
    with client_of(models) as client:
        problem(client.post("/v1/explain", content=b"x", headers={"content-length": length}), 413)


@pytest.mark.parametrize("times", [2, 30])
def test_a_body_that_turns_out_too_large(live: Live, times: int) -> None:
    """Sent in pieces, without a length: counted as it arrives; a client that never ends is cut off."""
    port = live(Settings(bytes=1 << 16))

    def pieces() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(times):
            yield bytes(1 << 15)
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/explain", pieces(), headers, encode_chunked=True)
        answer = connection.getresponse()
    except (BrokenPipeError, ConnectionResetError):
        assert times > 8  # it was still sending four times as much as is read
    else:
        expected = 413 if times > 2 else 422  # 65 536 bytes and the form around them are too many; read is their sum
        assert answer.status in (413, expected)
        assert json.loads(answer.read())["status"] == answer.status
    finally:
        connection.close()
    assert get(port, "/healthz")[0] == 200


# --- who -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_hosts_of_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[", "127.0.0.1@evil.example"])
def test_other_hosts(client: TestClient, host: str) -> None:
    problem(client.get("/v1/models", headers={"host": host}), 421)


def test_a_host_that_was_allowed(models: dict[str, Served]) -> None:
    with client_of(models, Settings(hosts=frozenset({"scans.example.org"}))) as client:
        assert client.get("/healthz", headers={"host": "scans.example.org:443"}).status_code == 200
        problem(client.get("/healthz", headers={"host": "localhost"}), 421)


def test_scripts_of_other_pages(client: TestClient) -> None:
    problem(client.post("/v1/explain", headers={"origin": "https://evil.example"}), 403)
    problem(client.get("/v1/models", headers={"origin": "null"}), 403)
    assert client.get("/v1/models", headers={"origin": "http://localhost:8000"}).status_code == 200


def test_a_token(models: dict[str, Served]) -> None:
    with client_of(models, Settings(token=digest_of(TOKEN))) as client:
        for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN):
            answer = client.get("/v1/models", headers={"authorization": wrong})
            problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/openapi.json", "/v1/gallery", "/v1/none"):
            problem(client.get(path), 401)
        for path in ("/", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        assert client.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


# --- what a browser may do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/v1/none"])
def test_every_answer_forbids_what_it_need_not_do(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("no-cache" if path == "/" else "no-store")


def test_parts_of_the_page_are_sent_again_only_when_they_changed(client: TestClient) -> None:
    first = client.get("/")
    assert client.get("/", headers={"if-none-match": first.headers["etag"]}).status_code in (200, 304)
    part = client.get("/static/server.js")
    assert part.headers["content-type"].startswith("text/javascript")
    assert client.get("/static/server.js", headers={"if-none-match": part.headers["etag"]}).status_code == 304
    for outside in ("/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd"):
        assert client.get(outside).status_code == 404


def test_the_page_asks_no_other_host(client: TestClient) -> None:
    text = client.get("/").text
    parts = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert parts
    assert not [p for p in parts if p.startswith(("http", "//"))]
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|\sstyle=", text), "the policy forbids inline code"


# --- how long --------------------------------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long(models: dict[str, Served], photo: Path) -> None:
    with client_of(models, Settings(seconds=0.3)) as client:
        answer = client.post("/v1/explain", files={"file": ("a.png", photo.read_bytes())}, data=SLOW)
        problem(answer, 504)
        assert until(lambda: client.app.state.service.slots.taken == 0)  # type: ignore[attr-defined]
        quick = client.post("/v1/explain", files={"file": ("a.png", photo.read_bytes())})
        assert quick.status_code in (200, 504), "the next one waits for one pass at most"


def test_a_request_that_never_ends(live: Live) -> None:
    port = live(Settings(seconds=0.3))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST /v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 100\r\n\r\n--x")  # fmt: skip
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_goes_away_frees_its_slot(live: Live, photo: Path) -> None:
    """And its explanation stops at the next pass: the one behind it does not wait for it."""
    port = live(Settings(queue=1))
    body, headers = form(photo.read_bytes(), **SLOW)
    lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"POST /v1/explain HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode() + body)
        assert until(lambda: figure(port, "turns_total") == 1)
        assert figure(port, "slots_taken") == 1
        assert post(port, body, headers)[0] == 503
    assert until(lambda: figure(port, "slots_taken") == 0)
    start = time.perf_counter()
    assert post(port, *form(photo.read_bytes()))[0] == 200
    assert time.perf_counter() - start < SOON


def test_beyond_the_queue(live: Live, photo: Path) -> None:
    """Told at once to come back; those before are answered."""
    port = live(Settings(queue=4))
    body, headers = form(photo.read_bytes(), method="rise", options='{"masks": 300}')
    found: list[tuple[int, str | None, float]] = []

    def ask() -> None:
        start = time.perf_counter()
        status, told, _ = post(port, body, headers)
        found.append((status, told.get("retry-after"), time.perf_counter() - start))

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _, _ in found} == {200, 503}
    assert sum(status == 200 for status, _, _ in found) >= 4
    refused = [(wait, seconds) for status, wait, seconds in found if status == 503]
    assert all(wait is not None and 1 <= int(wait) <= 30 and seconds < SOON for wait, seconds in refused)
    assert until(lambda: figure(port, "slots_taken") == 0)


@pytest.mark.slow
def test_256_clients(folder: Path, photo: Path) -> None:
    """Of a server in a process of its own: 64 are answered, the others told within a second (where nothing else keeps the
    machine busy), and it says that it lives."""
    with serving(folder) as (_, address):
        port = int(address.rpartition(":")[2])
        assert post(port, *form(photo.read_bytes()))[0] == 200
        body, headers = form(photo.read_bytes(), method="rise", options='{"masks": 400}')
        found: list[tuple[int, float]] = []

        def ask() -> None:
            start = time.perf_counter()
            found.append((post(port, body, headers)[0], time.perf_counter() - start))

        threads = [threading.Thread(target=ask) for _ in range(256)]
        for thread in threads:
            thread.start()
        health = [get(port, "/healthz") for _ in range(20)]
        for thread in threads:
            thread.join()
        refused = [seconds for status, seconds in found if status == 503]
        counts = {status: sum(s == status for s, _ in found) for status, _ in found}
        print(counts, f"refused within {max(refused):.2f} s, health within {max(h[2] for h in health):.2f} s")
        assert {h[0] for h in health} == {200}
        assert set(counts) == {200, 503}
        assert 64 <= counts[200] < 128, "some are done before the last have come"
        assert max(refused) < 1
        assert until(lambda: figure(port, "slots_taken") == 0)


def test_slow_clients_keep_nobody_waiting(live: Live, photo: Path) -> None:
    port = live()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        for k, client in enumerate(slow):
            head = b"POST /v1/explain HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(head if k % 2 else head + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999\r\n\r\n--x")  # fmt: skip
        status, _, seconds = get(port, "/healthz")
        assert status == 200
        assert seconds < SOON
        assert post(port, *form(photo.read_bytes()))[0] == 200
    finally:
        for client in slow:
            client.close()


# --- what is noted ---------------------------------------------------------------------------------------------------


def test_nothing_of_a_request_is_logged(
    models: dict[str, Served], photo: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the file, its name, a field, the query, nor the token; also when the server fails."""
    caplog.set_level(logging.DEBUG)
    with client_of(models, Settings(token=digest_of(TOKEN))) as client:
        monkeypatch.setitem(client.headers, "authorization", f"Bearer {TOKEN}")  # type: ignore[arg-type]
        files = {"file": ("Jane-Doe-1970.png", photo.read_bytes())}
        client.post("/v1/explain?ward=secretward", files=files, data={"target": "pear"})
        client.post("/v1/explain", files={"file": ("Jane-Doe-1970.png", b"JaneDoe is ill")}, data={"target": "pear"})
        monkeypatch.setattr("pellucid.app.explaining.answer", lambda *a, **k: 1 / 0)
        problem(client.post("/v1/explain", files=files, data={"target": "pear"}), 500)
    ours = [r for r in caplog.records if r.name.startswith("pellucid")]
    assert any("/v1/explain 200" in r.getMessage() for r in ours)
    said = "\n".join(logging.Formatter().format(r) for r in ours)
    assert "ZeroDivisionError" in said
    for secret in ("Jane", "secretward", "pear", TOKEN):
        assert secret not in said


def test_figures(models: dict[str, Served], photo: Path) -> None:
    with client_of(models) as client:
        client.post("/v1/explain", files={"file": ("a.png", photo.read_bytes())})
        client.get("/v1/models/nowhere")
        text = client.get("/metrics").text
    assert 'pellucid_requests_total{method="POST",route="/v1/explain",status="200"} 1' in text
    assert 'pellucid_requests_total{method="GET",route="/v1/models/{model}",status="404"} 1' in text
    assert "pellucid_request_seconds_count 2" in text
    assert f"pellucid_inputs_kept_bytes {photo.stat().st_size}" in text


def test_ready_means_the_networks_thread_is_at_work(models: dict[str, Served]) -> None:
    with client_of(models) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        client.app.state.service.worker.close()  # type: ignore[attr-defined]
        answer = client.get("/readyz")
        problem(answer, 503)
        assert answer.headers["retry-after"] == "5"
        assert client.get("/healthz").json() == {"status": "ok"}
