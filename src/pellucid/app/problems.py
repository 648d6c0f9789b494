"""Every error as `application/problem+json` (RFC 9457): what happened, why, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from pellucid.app.schemas import Problem
from pellucid.errors import PellucidError, ResourceError

MEDIA = "application/problem+json"


class Refused(Exception):
    """A request that is answered with a problem. headers: more of the answer's."""

    def __init__(
        self, status: int, title: str, *, detail: str = "", hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(title)
        self.problem = Problem(type="about:blank", title=title, status=status, detail=detail, hint=hint)
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = self.problem.model_dump_json().encode()
        return Response(body, self.problem.status, self.headers, media_type=MEDIA)


def from_error(error: PellucidError) -> Refused:
    """An error of pellucid. What a client sent was wrong (422), or the machine has no memory or disk left (503)."""
    if isinstance(error, ResourceError):
        return Refused(503, error.message, detail=error.why, hint=error.hint, headers={"Retry-After": "10"})
    return Refused(422, error.message, detail=error.why, hint=error.hint)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems a route can answer with, for the OpenAPI document; those that every route can are added."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*_ANY, *statuses})
    }


# What the limits around the routes answer (`limits.py`), and the framework to a body that it cannot read.
_ANY = (400, 401, 403, 405, 408, 413, 421, 500, 503, 504)


def install(app: FastAPI) -> None:
    """Answer every error of the application and of the framework with a problem."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(PellucidError)
    async def known(request: Request, error: PellucidError) -> Response:
        return from_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()[:5])
        hint = "See /openapi.json for the fields and their form."
        return Refused(422, "The request is not understood.", detail=told, hint=hint).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        hint = "See /openapi.json for what there is." if error.status_code in (404, 405) else ""
        title = HTTPStatus(error.status_code).phrase
        detail = "" if error.detail == title else str(error.detail)
        return Refused(error.status_code, title, detail=detail, hint=hint, headers=error.headers).response()
