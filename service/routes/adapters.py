"""/adapters: list, show, delete, download."""

from __future__ import annotations

import asyncio
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from service.errors import AdapterMismatch, AdapterNotFound, BadRequest, NotFound, Unprocessable
from service.routes.documented import OF_ADAPTER, READS, error_responses
from service.schemas import AdapterList, AdapterOut
from service.services import CallerDep, ServicesDep, TenantDep
from service.store import LIST_LIMIT

router = APIRouter(prefix="/adapters", tags=["adapters"])

PAGE = 20
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


@router.get("", response_model=AdapterList, responses=error_responses(*READS, BadRequest, NotFound, Unprocessable))
async def list_adapters(
    services: ServicesDep,
    tenant: TenantDep,
    limit: Annotated[int, Query(ge=1, le=LIST_LIMIT)] = PAGE,
    after: Annotated[str | None, Query(description="The `last_id` of the page before")] = None,
) -> dict[str, Any]:
    """Yours, newest first."""
    page = await services.store.list(tenant, limit, after)
    if page is None:
        raise NotFound(
            "The adapter named in 'after' is not (or no longer) there: start again without 'after'.", param="after"
        )
    data = [record.public() for record in page.records]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "has_more": page.has_more, "first_id": first, "last_id": last}


@router.get("/{adapter_id}", response_model=AdapterOut, responses=error_responses(*OF_ADAPTER))
async def show_adapter(adapter_id: str, services: ServicesDep, tenant: TenantDep) -> dict[str, Any]:
    record = await services.store.get(adapter_id)
    if record is None or record.tenant != tenant:
        raise AdapterNotFound(param="id", adapter_id=adapter_id, foreign=record is not None)
    return record.public()


@router.delete("/{adapter_id}", status_code=204, responses=error_responses(*OF_ADAPTER))
async def delete_adapter(adapter_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """Gone from the store at once; the engine's copies follow within seconds, and answer nobody meanwhile."""
    record = await services.store.get(adapter_id)
    if record is None or record.tenant != caller.tenant:
        raise AdapterNotFound(param="id", adapter_id=adapter_id, foreign=record is not None)
    removed = await services.store.delete(adapter_id, caller.tenant)
    if removed is None:
        raise AdapterNotFound(param="id", adapter_id=adapter_id)
    services.resolver.forget(adapter_id, caller.tenant)
    services.metrics.adapters.labels("deleted").inc()
    services.audit.write("deleted", caller.who, adapter_id, bytes=record.bytes, removed={"store": removed})
    return Response(status_code=204)


@router.get(
    "/{adapter_id}/peft",
    response_class=Response,
    responses={
        **error_responses(*OF_ADAPTER, AdapterMismatch),
        200: {"content": {"application/zip": {}}, "description": f"A zip of {' and '.join(PEFT_FILES)}"},
    },
)
async def download_peft(adapter_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """A LoRA that `peft.PeftModel.from_pretrained` loads onto the base model."""
    await services.resolver.adapter(adapter_id, tenant, "id")
    payload = await services.store.payload(adapter_id)
    if payload is None:
        raise AdapterNotFound(param="id")
    expander = await services.expander()
    data = await asyncio.to_thread(_zip_peft, payload, expander, services.settings.model_name)
    headers = {"Content-Disposition": f'attachment; filename="{adapter_id}.zip"'}
    return Response(data, media_type="application/zip", headers=headers)


def _zip_peft(payload: bytes, expander: Any, base_model_name: str) -> bytes:
    from generator.adapter import expand

    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="genadapter-peft-") as folder, zipfile.ZipFile(buffer, "w") as archive:
        expand(payload, expander).save_peft(Path(folder), base_model_name)
        for name in PEFT_FILES:
            archive.write(Path(folder) / name, name)
    return buffer.getvalue()
