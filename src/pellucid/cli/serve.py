"""`pellucid serve`: the page and the REST service in front of networks."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import BadInput, OptionError

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "serve"
HELP = (
    "Open a page in the browser on which images are dropped and explained, and a REST service for programs. "
    "Nothing leaves this machine."
)
EXAMPLES = (
    "pellucid serve runs/demo --data lesionlab:fundus",
    "pellucid serve torchvision:resnet50 --weights resnet50.pth --port 9000",
    "pellucid serve runs/first runs/second --jobs jobs.db",
    "pellucid serve runs/demo --host 0.0.0.0 --token-file token.txt --allow-host scans.example.org",
)
_SHORTEST = 16  # letters of a token


def run(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL...",
            help="Runs, saved models' folders, or torchvision:NAME, timm:NAME, pellucid:NAME.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="A file with the token that clients have to send; needed off this machine."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A name by which the service may be called; repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A data source for the gallery, such as lesionlab:fundus.")
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option("--jobs", help="A file that keeps jobs (many inputs at once) and their inputs across restarts."),
    ] = None,
    weights: options.Weights = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="onnxruntime or compile: runs the evidence faster.")
    ] = None,
    no_convert: Annotated[
        bool, typer.Option("--no-convert", help="Keep black boxes, even where conversion is exact.")
    ] = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    token = None if token_file is None else _token(token_file)
    _check_host(host, token)
    _require()
    with _listening(host, port) as listening:
        from pellucid.app.limits import digest_of
        from pellucid.app.served import open_all
        from pellucid.app.server import create_app
        from pellucid.app.service import LOOPBACK, Settings

        at = options.device(device)
        served = open_all(models, weights=weights, device=at, convert=not no_convert, backend=backend)
        if data is not None:
            next(iter(served.values())).dataset(data)  # a wrong source is said now
        hosts = LOOPBACK | {host.lower(), *(name.lower() for name in allow_host or ())}
        settings = Settings(data=data, jobs=jobs, hosts=hosts, token=None if token is None else digest_of(token))
        app = create_app(served, settings)
        for one in served.values():
            say(f"{one.id}: {' '.join([*one.notes, one.calibrated.note.capitalize() + '.'])}", quiet=quiet)
        address = f"http://{_name(host)}:{listening.getsockname()[1]}"
        if as_json:
            show({"address": address, "models": list(served)})
        say(f"Open {address}  (Ctrl-C ends it)", quiet=quiet)
        _log_requests(quiet)
        _serve(app, listening)
    say("Ended.", quiet=quiet)


def _name(host: str) -> str:
    """How a browser on this machine reaches it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _token(path: Path) -> str:
    """The first line of the file. Raises `BadInput` where it cannot be read, `OptionError` for one that can be guessed."""
    try:
        token = (path.read_text(encoding="utf-8").splitlines() or [""])[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"The token in {path} cannot be read.", why=str(error), hint="Check the path.", path=path
        ) from error
    if len(token) < _SHORTEST:
        raise OptionError(
            f"The token in {path} has {len(token)} letters.",
            why=f"At least {_SHORTEST} are needed, so that nobody guesses it.",
            hint=f"Make one: openssl rand -hex 24 > {path}",
        )
    return token


def _check_host(host: str, token: str | None) -> None:
    """Raise `OptionError` where others could reach the service without a token."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and token is None:
        raise OptionError(
            f"On {host} other machines could use the service.",
            why="Without a token it is offered to this machine alone.",
            hint="Add --token-file FILE, or leave out --host.",
        )


def _require() -> None:
    missing = [package for package in ("fastapi", "uvicorn", "python_multipart") if find_spec(package) is None]
    if missing:
        raise OptionError(
            "serve needs more packages.",
            why=f"Not installed: {', '.join(missing)}.",
            hint="Install the extra: pip install 'pellucid[serve]'.",
        )


def _listening(host: str, port: int) -> socket.socket:
    """The socket, before networks are loaded. Raises `OptionError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise OptionError(
            f"{host}:{port} cannot be listened on.",
            why=str(error),
            hint="Choose another --port (0 takes a free one), or check --host.",
        ) from error


def _serve(app: FastAPI, listening: socket.socket) -> None:
    """Until interrupted, which is how it usually ends."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        access_log=False,  # it would note queries
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if app.state.runner is not None:
                app.state.runner.hang_up()
            await super().shutdown(sockets)

    with suppress(KeyboardInterrupt):
        Server(settings).run(sockets=[listening])


def _log_requests(quiet: bool) -> None:
    """One line per answer on standard error: route, status and time; never a name or a body."""
    log = logging.getLogger("pellucid.app")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
