"""/healthz, /readyz, /metrics: for those who look after the service; they need no key and tell no secrets."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.schemas import Readiness
from service.services import ServicesDep

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, Any]:
    """This process lives. Depends on nothing else: a store that is away is no reason to be restarted."""
    return {"status": "ok"}


@router.get(
    "/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "A part cannot serve"}}
)
async def readyz(services: ServicesDep) -> Response:
    """It can serve: every part that this replica needs, by name."""
    parts = await services.readiness()
    ready = all(state == "ok" for state in parts.values())
    headers = {} if ready else {"Retry-After": "2"}
    return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503, headers=headers)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: ServicesDep) -> Response:
    """Prometheus text."""
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)
