"""What stands between the network and the routes, as plain ASGI: who may ask, how much, for how long, and what a browser
may do with the answer.

    Headers > Counted > Hosts > Token > Deadline > Received > Full > Answered > routes

A body is counted as it arrives, whatever its headers say, since forms are read whole before a route is called.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers as Read
from starlette.datastructures import MutableHeaders

from pellucid.app.batching import Slots
from pellucid.app.problems import Refused
from pellucid.app.service import Service
from pellucid.app.telemetry import Telemetry

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("pellucid.app")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
OPEN = ("/healthz", "/readyz")  # and the page, which holds nothing: asked for without a token


def install(app: FastAPI, service: Service, telemetry: Telemetry) -> None:
    """Put the limits around the routes; what is added last is outermost."""
    settings = service.settings
    app.add_middleware(Answered)
    app.add_middleware(Full, slots=service.slots)
    app.add_middleware(Received, most=settings.bytes)
    app.add_middleware(Deadline, seconds=settings.seconds)
    app.add_middleware(Token, digest=settings.token)
    app.add_middleware(Hosts, allowed=settings.hosts)
    app.add_middleware(Counted, telemetry=telemetry)
    app.add_middleware(Headers)


class Headers:
    """What a browser may do: load from this very server only, be framed nowhere, keep no answer."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache" if _is_page(scope["path"]) else "no-store")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class Counted:
    """Every answer in the figures and, without its body, its query and the names in it, in the log."""

    def __init__(self, app: Application, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # the client went away

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self.telemetry.note(scope["method"], route, status, seconds)
            _log.info("%s %s %d %.0f ms", scope["method"], route, status, 1000 * seconds)


class Hosts:
    """Only requests for a name of the list, and from pages of these names: no other page's script reaches this server."""

    def __init__(self, app: Application, allowed: frozenset[str]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(Read(scope=scope)) if scope["type"] == "http" else None
        await (self.app if refused is None else refused.response())(scope, receive, send)

    def _refused(self, headers: Read) -> Refused | None:
        host, origin = _name(f"//{headers.get('host', '')}"), headers.get("origin")
        if host not in self.allowed:
            return Refused(
                421,
                "This server does not answer for that host.",
                detail=f"It was asked as '{host[:100]}'.",
                hint="Start it with --allow-host NAME.",
            )
        if origin is not None and _name(origin) not in self.allowed:
            return Refused(403, "Pages of other hosts may not ask this server.", hint="Open its own page.")
        return None


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


class Token:
    """`Authorization: Bearer TOKEN`, where the server was given one. digest: its SHA-256."""

    def __init__(self, app: Application, digest: bytes | None) -> None:
        self.app, self.digest = app, digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.digest is None or _is_open(scope["path"]) or self._known(Read(scope=scope)):
            await self.app(scope, receive, send)
            return
        hint = "Send the header: Authorization: Bearer TOKEN."
        refused = Refused(401, "A token is needed.", hint=hint, headers={"WWW-Authenticate": "Bearer"})
        await refused.response()(scope, receive, send)

    def _known(self, headers: Read) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        assert self.digest is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(digest_of(token.strip()), self.digest)


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _is_page(path: str) -> bool:
    return path == "/" or path.startswith("/static/")


def _is_open(path: str) -> bool:
    return _is_page(path) or path in OPEN


class Deadline:
    """An answer has to begin in time. Work for a client that is late, or that has gone away, is given up."""

    def __init__(self, app: Application, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client, begun, sent = _Client(receive), asyncio.Event(), asyncio.Event()

        async def noting(message: Message) -> None:
            begun.set()
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                sent.set()

        work = asyncio.ensure_future(self.app(scope, client.receive, noting))
        watch = asyncio.ensure_future(client.watch())
        try:
            await asyncio.wait({work, watch}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set() and not work.done() and not watch.done():
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            late = not work.done() and not watch.done()
        finally:
            if not sent.is_set():  # else only tidying up is left
                work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
        if late and not begun.is_set():
            await self._refused(client.whole.is_set()).response()(scope, receive, send)
        elif not work.cancelled():
            work.result()

    def _refused(self, whole: bool) -> Refused:
        told = f"It took longer than {self.seconds:g} s."
        if whole:
            return Refused(504, "The answer was not ready in time.", detail=told, hint="Choose a faster method.")
        return Refused(408, "The request did not arrive in time.", detail=told, headers={"Connection": "close"})


class _Client:
    """The receiving side: it is watched for a client that goes away once its body is here."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.whole, self._gone = receive, asyncio.Event(), asyncio.Event()

    async def receive(self) -> Message:
        if self.whole.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone.set()
        if not message.get("more_body"):
            self.whole.set()
        return message

    async def watch(self) -> None:
        """Ends when the client has gone away."""
        await self.whole.wait()
        while not self._gone.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._gone.set()


class Received:
    """Refuses a body of more bytes than `most`, told by its length or found as it arrives."""

    def __init__(self, app: Application, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Read(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self.most:
            await self._refused().response()(scope, receive, send)
            return
        count = _Count(receive, self.most)

        async def unless_over(message: Message) -> None:
            if not count.over:
                await send(message)

        await self.app(scope, count.receive, unless_over)
        if count.over:
            await count.drain()
            await self._refused().response()(scope, receive, send)

    def _refused(self) -> Refused:
        return Refused(
            413,
            "The request is too large.",
            detail=f"At most {self.most >> 20} MiB are read.",
            hint="Send a smaller file, or explain it with: pellucid explain FILE.",
            headers={"Connection": "close"},
        )


class _Count:
    """Bytes of a body. Above `most` the application is told that the client has gone."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self.most, self.bytes, self._more = receive, most, 0, True

    @property
    def over(self) -> bool:
        return self.bytes > self.most

    async def receive(self) -> Message:
        message = await self._receive()
        self.bytes += len(message.get("body", b""))
        self._more = bool(message.get("more_body"))
        return {"type": "http.disconnect"} if self.over else message

    async def drain(self) -> None:
        """Read on for a while, unkept: a client that is still sending would not see the answer."""
        while self._more and self.bytes <= 4 * self.most:
            await self.receive()


class Full:
    """Refuses a question before its body is taken apart, where no place is free."""

    def __init__(self, app: Application, slots: Slots) -> None:
        self.app, self.slots = app, slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http" and scope["method"] == "POST":
                self.slots.check()
        except Refused as refused:
            while (await receive()).get("more_body"):  # a client that is still sending would not see the answer
                pass
            await refused.response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Answered:
    """What nobody expected becomes an answer like any other, and a traceback in the log."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception:
            if scope["type"] != "http" or begun:
                raise
            _log.exception("%s failed", scope["method"])
            refused = Refused(500, "Internal error.", hint="Report it with the server's log.")
            await refused.response()(scope, receive, send)


__all__ = ["POLICY", "digest_of", "install"]
