"""The application: routes, the page, and the limits around them."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files as resources

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from pellucid import __version__
from pellucid.app import comparing, explaining, exports, gallery, health, jobs, limits, looking, problems
from pellucid.app.job_runner import Runner
from pellucid.app.job_store import JobStore
from pellucid.app.schemas import Problem
from pellucid.app.served import Served
from pellucid.app.service import Service, Settings
from pellucid.app.telemetry import Telemetry

ROUTERS = (
    health.router,
    explaining.router,
    comparing.router,
    looking.router,
    exports.router,
    gallery.router,
    jobs.router,
)
_STATIC = resources("pellucid.app") / "static"

# A module is only run under its own type, which some machines do not know.
mimetypes.add_type("text/javascript", ".js")


def create_app(models: Mapping[str, Served], settings: Settings | None = None) -> FastAPI:
    """The service for these networks. Whoever runs it starts and stops it (ASGI lifespan).

    Raises `OptionError` or `BadInput` for a file of jobs that cannot be used.
    """
    settings = settings or Settings()
    service = Service(models, settings)
    rooms = gallery.Rooms(service)
    runner = None if settings.jobs is None else Runner(service, JobStore(settings.jobs))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        aside = [asyncio.create_task(rooms.look())] if settings.data is not None else []
        if runner is not None:
            aside.append(asyncio.create_task(runner.run()))
        yield
        for task in aside:
            task.cancel()
        await asyncio.gather(*aside, return_exceptions=True)
        service.close()
        if runner is not None:
            runner.store.close()

    app = FastAPI(
        title="pellucid",
        version=__version__,
        description="Networks that show their evidence.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service, app.state.rooms, app.state.runner, app.state.telemetry = service, rooms, runner, Telemetry()
    problems.install(app)
    limits.install(app, service, app.state.telemetry)
    for router in ROUTERS:
        app.include_router(router)
    _page(app)
    _describe(app)
    return app


def _page(app: FastAPI) -> None:
    """The page and its parts, which are sent again only when they changed."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(str(_STATIC / "index.html"))

    app.mount("/static", StaticFiles(directory=str(_STATIC)))


def _describe(app: FastAPI) -> None:
    """Problems in the OpenAPI document, in place of the framework's own errors."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
