"""The page at /: its files are whole, and its headers let nothing else run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from service.routes.playground import FOLDER, INDEX, MEDIA_TYPES
from tests.contract.conftest import Service, StartService

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
# What turns a string into markup or code; the page has no use for any.
SINKS = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "srcdoc", "eval(", "Function(")


def address(name: str) -> str:
    return "/" if name == INDEX else f"/playground/{name}"


class Markup(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def markup() -> Markup:
    return Markup((FOLDER / INDEX).read_text())


def test_every_file_is_served_and_no_other() -> None:
    assert sorted(MEDIA_TYPES) == FILES


@pytest.mark.parametrize("name", FILES)
def test_headers(service: Service, name: str) -> None:
    response = service.client.get(address(name))
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    assert response.headers["content-type"] == MEDIA_TYPES[name]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    policy = response.headers["content-security-policy"]
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(
        policy.split("; ")
    )
    assert "unsafe" not in policy
    assert "*" not in policy


def test_a_copy_that_is_still_right_is_not_sent_again(service: Service) -> None:
    first = service.client.get("/")
    again = service.client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert service.client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    assert service.client.head("/").headers["content-length"] == first.headers["content-length"]


@pytest.mark.parametrize("name", [INDEX, "nothing.js", "..%2Fapp.py", "%2e%2e%2fsettings.py", "__init__.py"])
def test_nothing_else_can_be_read(service: Service, name: str) -> None:
    response = service.client.get(f"/playground/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_the_page_needs_no_key(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_text('{"keys": []}')
    closed = start_service(api_keys_file=keys)
    assert closed.client.get("/").status_code == 200
    assert closed.client.get("/adapters").status_code == 401


def test_no_inline_code_and_nothing_from_elsewhere(markup: Markup) -> None:
    assert markup.inline == []
    for tag, attributes in markup.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag != "script" or attributes["src"], tag
    for name in FILES:
        text = (
            (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8000/", "")
        )
        assert not re.search(r"(https?:)?//[a-z0-9]", text.replace(": //", "")), name
        assert not [sink for sink in SINKS if sink in text], name


def test_everything_referred_to_exists(markup: Markup) -> None:
    linked = [attributes.get("src") or attributes.get("href") or "" for _, attributes in markup.tags]
    local = {name.removeprefix("playground/") for name in linked if name.startswith("playground/")}
    assert {"app.js", "style.css", "icon.svg"} <= local <= set(FILES)
    assert {name for name in linked if name and not name.startswith(("playground/", "#"))} == {"docs"}
    for name in SCRIPTS:
        imported = re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text())
        assert set(imported) <= set(SCRIPTS), name


def test_the_sample_is_the_one_of_the_examples() -> None:
    source = (FOLDER / "sources.js").read_text()
    text = "".join(re.findall(r'^    "(.+)" ?[+,]$', source, re.MULTILINE))
    assert text == (EXAMPLES / "frogs.txt").read_text().strip()
    (question,) = re.findall(r'question: "(.+)"', source)
    assert question in (EXAMPLES.parent / "README.md").read_text()


def test_ids_are_unique_and_known_to_the_scripts(markup: Markup) -> None:
    assert len(markup.ids) == len(set(markup.ids))
    for name in SCRIPTS:
        used = set(re.findall(r'byId\("([^"]+)"\)', (FOLDER / name).read_text()))
        assert used <= set(markup.ids), name
    for tag, attributes in markup.tags:
        for attribute in ("for", "aria-labelledby", "aria-describedby"):
            if attribute in attributes:
                assert attributes[attribute] in markup.ids, (tag, attributes)
