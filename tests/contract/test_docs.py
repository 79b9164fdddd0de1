"""GET /docs: the page of the API, all of it from this service."""

from __future__ import annotations

import re

from tests.contract.conftest import Service


def test_the_page_of_the_api_comes_from_here_alone(service: Service) -> None:
    page = service.client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "http" not in page.text
    for name in re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text):
        asset = service.client.get(f"/{name}")
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith(("text/javascript", "text/css"))
    assert b"SwaggerUIBundle" in service.client.get("/docs/swagger-ui-bundle.js").content
    for name in ("redoc.standalone.js", "..%2f__init__.py", "start.js.map"):
        assert service.client.get(f"/docs/{name}").status_code == 404
