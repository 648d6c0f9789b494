"""What is in a network: its filters, and which channels of a layer make up an answer."""

from __future__ import annotations

from typing import Annotated

import torch
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from torch import Tensor

from pellucid.app.answers import geometry_info, numbers
from pellucid.app.batching import Work
from pellucid.app.explaining import Shared, sent
from pellucid.app.problems import answers
from pellucid.app.schemas import ChannelInfo, Dtype, FeatureMapsAnswer, FeatureMapsQuestion, FiltersAnswer
from pellucid.app.service import meant
from pellucid.view import FeatureMaps, Filters
from pellucid.views import VIEWS

router = APIRouter(prefix="/v1")


@router.get("/models/{model}/filters", response_model=FiltersAnswer, responses=answers(404, 422))
async def filters(
    service: Shared,
    model: Annotated[str, Path(max_length=200)],
    layer: Annotated[str, Query(max_length=400, description="A convolution; left out: the first.")] = "",
    k: Annotated[int, Query(ge=1, le=256, description="How many, longest first.")] = 64,
    dtype: Dtype = "float32",
) -> Response:
    """The kernels of a convolution."""
    served = service.served(model)

    def look() -> Response:
        found: Filters = VIEWS["filters"](served.network, layer=layer or None)
        chosen = found.order[:k]
        return sent(
            FiltersAnswer(
                layer=found.layer,
                total=len(found.kernels),
                channels=chosen.tolist(),
                norms=found.norms[chosen].tolist(),
                kernels=numbers(found.kernels[chosen], dtype),
                groups=found.groups,
                colour=found.colour,
                pointwise=found.pointwise,
            )
        )

    return await service.reading(look)


@router.post("/feature-maps", response_model=FeatureMapsAnswer, responses=answers(404, 422))
async def feature_maps(service: Shared, question: FeatureMapsQuestion) -> Response:
    """The channels of a layer that add most to a target's score and those that take most from it, place by place."""
    served = service.served(question.model)
    target = meant(question.target, served)
    with service.slots.one():
        _, x, _ = await service.reading(lambda: service.input(served, question))

        def look(inputs: object) -> list[FeatureMaps]:
            found: FeatureMaps = VIEWS["feature_maps"](
                served.network, x, target, layer=question.layer or None, task=served.task, classes=served.names
            )
            return [found]

        found = await service.worker.do(Work(served, None, None, look))
        return await service.reading(lambda: sent(_answer(found, question)))


def _answer(found: FeatureMaps, question: FeatureMapsQuestion) -> FeatureMapsAnswer:
    chosen = _ends(found.order[0], question.k)
    contributions, means = found.contributions[0], found.maps[0].flatten(1).mean(1)
    return FeatureMapsAnswer(
        layer=found.layer,
        target=found.target.describe(found.classes),
        score=float(found.score[0]),
        constant=float(found.constant[0]),
        residual=float(found.residual[0]),
        complete=found.complete,
        total=found.maps.shape[1],
        channels=[
            ChannelInfo(channel=c, contribution=float(contributions[c]), mean_response=float(means[c]))
            for c in chosen.tolist()
        ],
        maps=numbers(found.maps[0, chosen], question.dtype),
        cells=numbers(found.cells[0, chosen], question.dtype),
        geometry=geometry_info(found.geometry),
    )


def _ends(order: Tensor, k: int) -> Tensor:
    """The first and the last of an order, k in all."""
    if k >= len(order):
        return order
    return torch.cat([order[: (k + 1) // 2], order[len(order) - k // 2 :]])
