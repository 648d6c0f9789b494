"""`/v1/explain`, `/v1/models` and the inputs that are kept."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Path
from fastapi.responses import Response
from pydantic import BaseModel

from pellucid.app.answers import answer
from pellucid.app.problems import Refused, answers
from pellucid.app.schemas import ExplainForm, ExplanationAnswer, Held, InputForm, Limits, ModelInfo, Models, Question
from pellucid.app.service import Service, service_of
from pellucid.app.uploads import Wish
from pellucid.data.image_file import MOST_PIXELS

router = APIRouter(prefix="/v1")
Shared = Annotated[Service, Depends(service_of)]


@router.get("/models", response_model=Models, responses=answers())
async def models(service: Shared) -> Response:
    """The served networks, by which methods each can be explained, and the limits of the service."""
    settings = service.settings
    limits = Limits(bytes=settings.bytes, pixels=MOST_PIXELS, queue=settings.queue, seconds=settings.seconds)
    found = [served.info() for served in service.models.values()]
    return sent(Models(models=found, gallery=settings.data is not None, limits=limits))


@router.get("/models/{model}", response_model=ModelInfo, responses=answers(404, 422))
async def model(service: Shared, model: Annotated[str, Path(max_length=200)]) -> Response:
    """One of them."""
    return sent(service.served(model).info())


@router.get("/inputs/{input_id}", response_model=Held, responses=answers(404, 422))
async def held(service: Shared, input_id: Annotated[str, Path(max_length=80)]) -> Response:
    """Whether an input is still kept; 404 when it was forgotten and has to be sent again."""
    if input_id.startswith("data-"):
        upload = await service.reading(lambda: service.upload(service.served(""), input_id, Wish()))
        return sent(Held(input_id=input_id, name=upload.sample.name, bytes=0))
    file = service.file(input_id)
    return sent(Held(input_id=input_id, name=file.name, bytes=len(file.data)))


@router.post("/explain", response_model=ExplanationAnswer, responses=answers(404, 422))
async def explain(service: Shared, form: Annotated[ExplainForm, Form(media_type="multipart/form-data")]) -> Response:
    """Why a network answers as it does on an input: a signed map, and a ledger that adds up where the method is complete."""
    with service.slots.one():
        question = await received(service, form)
        explained = await service.explained(question)
        return await service.reading(
            lambda: sent(answer(explained, form.dtype, every_class=form.every_class, with_input=form.with_input))
        )


async def received(service: Service, form: InputForm) -> Question:
    """The form's question, about its file or an input that is kept. Raises `Refused` (422) without either or with both."""
    question = form.question()
    if (form.file is None) == (not form.input_id):
        raise Refused(
            422, "One input is needed.", detail="Neither or both of file and input_id came.", hint="Send one."
        )
    if form.file is None:
        return question
    data = await form.file.read()
    return question.model_copy(update={"input_id": service.keep(data, form.file.filename or "")})


def sent(value: BaseModel) -> Response:
    """An answer as JSON, made once."""
    return Response(value.model_dump_json(), media_type="application/json")


__all__ = ["Shared", "received", "router", "sent"]
