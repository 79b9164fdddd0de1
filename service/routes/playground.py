"""GET /: the page for people. A handful of files of this package, and the headers that keep what people type from
running."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

from service.errors import NotFound

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "playground"
INDEX = "index.html"
# Nothing outside this list is ever opened, whatever the address says.
MEDIA_TYPES = MappingProxyType(
    {
        INDEX: "text/html; charset=utf-8",
        "style.css": "text/css; charset=utf-8",
        "icon.svg": "image/svg+xml",
        **dict.fromkeys(
            (
                "app.js",
                "answers.js",
                "api.js",
                "growing.js",
                "history.js",
                "snippets.js",
                "sources.js",
                "stages.js",
                "view.js",
            ),
            "text/javascript; charset=utf-8",
        ),
    }
)
# Only what lies here, no inline code or style, and (trusted-types) no text that becomes markup.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Kept by the browser but asked for each time: after an upgrade no page runs half old, half new.
        "Cache-Control": "no-cache",
    }
)


@router.api_route("/", methods=["GET", "HEAD"])
def page(request: Request) -> Response:
    return _serve(INDEX, request)


@router.api_route("/playground/{name}", methods=["GET", "HEAD"])
def asset(name: str, request: Request) -> Response:
    if name not in MEDIA_TYPES or name == INDEX:  # the page's relative addresses hold at / only
        raise NotFound()
    return _serve(name, request)


def _serve(name: str, request: Request) -> Response:
    content = (FOLDER / name).read_bytes()
    headers = {**HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[name], headers=headers)
