"""The processes that follow the log, and the step to another semantics version."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from app.api import schemas
from app.api.service import Running, StrictRoute, answer, may_operate
from app.errors import Conflict
from app.events import Upgrade

router = APIRouter(
    tags=["operations"], dependencies=[Depends(may_operate)], route_class=StrictRoute
)


@router.get("/v1/replicas", response_model=schemas.ReplicaPage, responses=schemas.errors(503))
async def list_replicas(service: Running) -> Response:
    """Return the processes that follow this log, how far each is, and which versions it knows."""
    peers = await service.peers.list()
    return answer({"replicas": [peer.view() for peer in peers]})


@router.post("/v1/upgrade", responses=schemas.errors(409, *schemas.WRITES))
async def upgrade(service: Running, body: schemas.UpgradeBody) -> Response:
    """Let all replicas go on with another semantics version, from one place in the log on.

    409 if one of them does not know it: it would stop there.
    """
    peers = await service.peers.list()
    behind = [
        f"{peer.name} (process {peer.about.get('pid')} on {peer.about.get('host')})"
        for peer in peers
        if not peer.knows(body.semantics)
    ]
    if behind and not body.force:
        raise Conflict(
            f"semantics version {body.semantics} is not known to {', '.join(behind)}, which would"
            " stop there: replace these first, or force it"
        )
    outcome = await service.submit(Upgrade(body.semantics, body.reason, "operator"))
    return answer({"semantics": service.engine.semantics, "cursor": outcome.cursor})
