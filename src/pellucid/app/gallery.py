"""`/v1/gallery`: the inputs of a data set, those first that the network got most wrong or explains most strangely.

The data are looked at one by one from the start on, whenever nobody waits for an explanation.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from PIL import Image
from torch import Tensor

from pellucid import api, spatial
from pellucid.app import uploads
from pellucid.app.answers import probabilities
from pellucid.app.batching import Work
from pellucid.app.explaining import Shared, sent
from pellucid.app.problems import Refused, answers
from pellucid.app.schemas import Gallery, GalleryItem
from pellucid.app.served import Served
from pellucid.app.service import Service
from pellucid.errors import PellucidError
from pellucid.explanation import Explanation
from pellucid.sample import Sample
from pellucid.training.data import first_sample

router = APIRouter(prefix="/v1")
MOST = 1000  # inputs of a data set
_SIDE = 96  # of a thumbnail
_log = logging.getLogger("pellucid.app")

Sort = Literal["loss", "outside", "disagreement"]


@dataclass(frozen=True)
class Looked:
    """What one network makes of one input."""

    prediction: str
    probabilities: list[float] | None
    loss: float | None
    outside: float | None


class Rooms:
    """What was looked at so far: per input its facts and, per network, what it makes of it.

    networks: those that the data suit, None until that is known. total, failed: how many inputs there are, and cannot be used.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.items: list[tuple[GalleryItem, dict[str, Looked]]] = []
        self.total, self.failed = 0, 0
        self.networks: list[str] | None = None

    async def look(self) -> None:
        """Look at everything, patiently."""
        service = self._service
        models = service.models.items()
        suited = [name for name, served in models if await service.reading(partial(_suits, service, served))]
        self.networks = suited
        self.total = min(len(service.data(service.models[suited[0]])), MOST) if suited else 0
        for k in range(self.total):
            try:
                self.items.append(await self._one(k, suited))
            except (PellucidError, Refused) as error:
                self.failed += 1
                _log.info("gallery: input %d cannot be used: %s", k, type(error).__name__)

    async def _one(self, k: int, networks: Sequence[str]) -> tuple[GalleryItem, dict[str, Looked]]:
        service, found = self._service, {}
        for name in networks:
            served = service.models[name]
            data = service.data(served)
            sample: Sample = await service.reading(partial(data.__getitem__, k))
            label = data.classes[sample.label] if isinstance(sample.label, int) and data.classes else None
            found[name] = await service.worker.do(Work(served, None, (served, sample, label), _look, patient=True))
        item = GalleryItem(
            input_id=f"data-{k}", name=sample.name, label=label, prediction="", probability=None, loss=None, outside=None,
            disagreement=_disagreement([f.probabilities for f in found.values()]), thumbnail=_thumbnail(sample.image),
        )  # fmt: skip
        return item, found

    def page(self, model: str, sort: Sort, offset: int, limit: int) -> Gallery:
        items = [_for(item, found[model]) for item, found in self.items]
        worst = sorted(items, key=lambda item: -_value(item, sort))
        return Gallery(
            total=self.total,
            looked_at=len(self.items) + self.failed,
            failed=self.failed,
            items=worst[offset : offset + limit],
        )


def _suits(service: Service, served: Served) -> bool:
    """Whether the data are inputs of this network, by the first that can be read."""
    try:
        data = service.data(served)
        uploads.check_suits(first_sample(data, 1.0), served.shape)
    except (PellucidError, Refused, ValueError, RuntimeError) as error:
        _log.info("gallery: the data do not suit %s: %s", served.id, type(error).__name__)
        return False
    return True


def _for(item: GalleryItem, looked: Looked) -> GalleryItem:
    best = None if looked.probabilities is None else max(looked.probabilities)
    return item.model_copy(
        update={"prediction": looked.prediction, "probability": best, "loss": looked.loss, "outside": looked.outside}
    )


def _value(item: GalleryItem, sort: Sort) -> float:
    value = getattr(item, sort)
    return -math.inf if value is None else float(value)


def _look(payloads: Sequence[tuple[Served, Sample, str | None]]) -> list[Any]:
    """One network's answer and evidence for one input, in the network's thread."""
    ((served, sample, label),) = payloads
    e = api.explain(served.network, sample.input[None], task=served.task, classes=served.names)
    found = probabilities(served.task, e.logits.reshape(1, -1).double().cpu())
    exclusive = served.task in ("multiclass", "binary")
    answer = served.classes[found.index(max(found))] if found and exclusive else ""
    loss = None
    if found and exclusive and label in served.classes:
        loss = -math.log(max(found[served.classes.index(label)], 1e-300))
    return [Looked(answer, found, loss, _outside(e, sample.mask))]


def _outside(e: Explanation, mask: Tensor | None) -> float | None:
    """The share of the absolute evidence outside the mask; None where there is nothing to be found, or no evidence."""
    if mask is None or not mask.any():
        return None
    sizes = e.map[0].abs()
    total: float = sizes.double().sum().item()
    inside: float = float(spatial.region_sums(sizes, mask[None], e.geometry)[0])
    return 1 - inside / total if total else None


def _disagreement(each: Sequence[list[float] | None]) -> float | None:
    known = [p for p in each if p is not None]
    if len(known) < 2 or len({len(p) for p in known}) > 1:
        return None
    return float(max(max(column) - min(column) for column in zip(*known, strict=True)))


def _thumbnail(image: Any) -> str:
    if image is None:
        return ""
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _rooms(request: Request) -> Rooms:
    found: Rooms = request.app.state.rooms
    return found


@router.get("/gallery", response_model=Gallery, responses=answers(404, 422))
async def gallery(
    service: Shared,
    rooms: Annotated[Rooms, Depends(_rooms)],
    model: Annotated[str, Query(max_length=200)] = "",
    sort: Sort = "loss",
    offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 24,
) -> Response:
    """Worst first: by loss, by the share of evidence outside the mask, or by how far the served networks disagree."""
    served = service.served(model)
    if service.settings.data is None:
        raise Refused(404, "There is no data set.", hint="Start the server with --data SOURCE.")
    suited = rooms.networks
    if suited is not None and served.id not in suited:
        raise Refused(422, f"The data do not suit {served.id}.", hint=f"They suit: {', '.join(suited) or 'none'}.")
    if sort == "disagreement" and len(service.models if suited is None else suited) < 2:
        raise Refused(422, "One network does not disagree.", hint="Serve two, for example two runs.")
    return sent(rooms.page(served.id, sort, offset, limit))
