"""Whether the service lives, is ready, and what it does."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse, Response

from pellucid.app.explaining import Shared, sent
from pellucid.app.problems import Refused, answers
from pellucid.app.schemas import Health
from pellucid.app.telemetry import Telemetry

router = APIRouter()


def _telemetry(request: Request) -> Telemetry:
    found: Telemetry = request.app.state.telemetry
    return found


@router.get("/healthz", response_model=Health, responses=answers())
async def healthz() -> Response:
    """The process answers."""
    return sent(Health(status="ok"))


@router.get("/readyz", response_model=Health, responses=answers())
async def readyz(service: Shared) -> Response:
    """The networks are loaded and their thread is at work; else 503."""
    if not service.worker.alive:
        raise Refused(503, "The networks are not ready.", headers={"Retry-After": "5"})
    return sent(Health(status="ready"))


@router.get("/metrics", response_class=PlainTextResponse, responses=answers())
async def metrics(service: Shared, telemetry: Annotated[Telemetry, Depends(_telemetry)]) -> PlainTextResponse:
    """Counts and times for Prometheus."""
    return PlainTextResponse(telemetry.text(service), media_type="text/plain; version=0.0.4")
