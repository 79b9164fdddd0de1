"""GET /docs: the OpenAPI page (Swagger UI, as the package fastapi-offline carries it). Nothing comes from elsewhere: a script of
somebody else's server would run beside the playground, where people keep their keys, and a machine without internet would show
an empty page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from service.errors import NotFound

router = APIRouter(include_in_schema=False)

PACKAGE = "fastapi_offline"
MEDIA_TYPES = MappingProxyType({"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"})
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>genadapter: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="page"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true});\n'
# Swagger UI sets styles on elements, and carries its pictures as data.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)


@router.get("/docs")
def page() -> Response:
    return Response(PAGE, media_type="text/html", headers=dict(HEADERS))


@router.get("/docs/{name}")
def asset(name: str) -> Response:
    if name == "start.js":
        return Response(START, media_type="text/javascript", headers=dict(HEADERS))
    folder = _folder()
    if name not in MEDIA_TYPES or folder is None:
        raise NotFound()
    return FileResponse(folder / name, media_type=MEDIA_TYPES[name], headers=dict(HEADERS))


def _folder() -> Path | None:
    """Where the package's files lie, without running any of it."""
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.origin).parent / "static" if found and found.origin else None
