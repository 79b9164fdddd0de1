"""The page at / in a real browser: real service and store, stand-ins for the generator and the engine, so that it is
quick. Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); skipped without them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.auth import hash_key
from tests.contract.conftest import Service, StartService, fake_engine, start_service, valkey
from tests.contract.doubles import MODEL
from tests.e2e.browser import CHROMIUM, DRIVER, By, Keys, Page, chromium, look

__all__ = ["fake_engine", "start_service", "valkey"]  # fixtures that start the service

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"
)

PHONE = 360
ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def open_service(start_service: StartService) -> Service:
    return start_service()


@pytest.fixture
def page(driver: Any, open_service: Service, tmp_path: Path) -> Page:
    look(driver, 1200, "light")
    page = Page(driver, open_service.url, tmp_path)
    page.open()
    driver.execute_script("sessionStorage.clear()")
    page.open()
    page.complaints()  # those of the page before
    return page


def test_from_the_sample_to_three_answers_with_the_keyboard_alone(page: Page) -> None:
    page.find("sample").send_keys(Keys.ENTER)
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # the focus is on "Make the adapter"
    page.until(lambda: page.find("adapter-card").is_displayed())
    assert page.text("adapter-id").startswith("ga-")
    assert page.text("adapter-badge") == "new"
    assert MODEL in page.text("adapter-facts")
    page.until(lambda: "–" not in page.text("stages"))
    assert "Load it into the engine" in page.all("#stages li")[-1].text
    assert "contextualize" in page.text("code-text")
    page.find("question").send_keys(Keys.ENTER)
    page.until(lambda: page.text("takeaway"))
    assert [answer.text for answer in page.all(".way .answer")] == ["Hello wörld"] * 3
    assert [facts.text.count("1×") for facts in page.all(".way .facts")] == [1, 1, 1]
    assert page.all("#history-list input")[0].get_attribute("value") == "The glass frogs of Lake Imbari"
    assert page.complaints() == []


def test_what_was_sent_is_what_the_columns_say(page: Page, open_service: Service) -> None:
    made = page.make("The mill of Orlec grinds blue barley.")
    open_service.engine.requests.clear()
    page.ask("What does it grind?")
    sent = [(request["model"], request["messages"][0]["content"]) for request in open_service.engine.requests]
    question = "What does it grind?"
    in_prompt = f"The mill of Orlec grinds blue barley.\n\n{question}"
    assert sent == [(made, question), (MODEL, question), (MODEL, in_prompt)]


def test_the_same_text_again_is_told_as_such(page: Page) -> None:
    made = page.make("Twice the same.")
    assert page.make("Twice the same.") == made
    assert page.text("adapter-badge") == "had it already"


def test_a_conversation(page: Page, open_service: Service) -> None:
    page.pick("conversation")
    page.write("conversation", "no role here")
    page.find("make-button").click()
    page.until(lambda: "first line must begin with User:" in page.text("make-error"))
    page.write("conversation", "User: My boat is red.\nAssistant: Noted.")
    made = page.submit()
    assert made == open_service.create("User: My boat is red.\nAssistant: Noted.")["id"]


def test_an_uploaded_pdf_and_a_broken_one(page: Page, open_service: Service) -> None:
    from tests.e2e.test_serve import pdf

    page.upload("broken.pdf", b"%PDF-1.7 and then nothing")
    page.find("make-button").click()
    page.until(lambda: page.text("make-error"))
    assert "broken.pdf" in page.text("make-error")
    page.upload("log.pdf", pdf("The Orchid III is moored at pier 14."))
    page.find("make-button").click()
    page.until(lambda: page.find("adapter-card").is_displayed())
    page.until(lambda: not page.find("make-button").get_attribute("aria-disabled"))
    open_service.engine.requests.clear()
    assert page.ask("Where is she?") == ["Hello wörld"] * 3
    in_prompt = open_service.engine.requests[-1]["messages"][0]["content"]
    assert "The Orchid III is moored at pier 14." in in_prompt, "the service told the page what is in the PDF"


def test_a_text_that_the_page_does_not_know(page: Page, open_service: Service) -> None:
    made = open_service.create("Made by a program, and read there.")["id"]
    page.find("history-reload").click()
    page.until(lambda: page.all(f"li[data-id={made}] button"))
    page.all(f"li[data-id={made}] button")[0].click()
    with_adapter, bare, in_prompt = page.ask("Who?")
    assert (with_adapter, bare) == ("Hello wörld", "Hello wörld")
    assert in_prompt.startswith("Not available")


def test_a_text_file_is_known_to_the_page(page: Page) -> None:
    page.upload("note.md", "Grüße aus Orlec".encode())
    page.submit()
    assert page.ask("From where?") == ["Hello wörld"] * 3


def test_an_error_in_the_middle_is_told_in_words(page: Page) -> None:
    page.make("Something to break.")
    answers = page.ask("midway")
    assert answers[0]
    assert "secret" not in " ".join(answers)
    assert page.all(".way.adapter .failed")


def test_stop(page: Page) -> None:
    page.make("Something slow.")
    page.write("question", "slow")
    page.find("ask-button").click()
    page.until(lambda: page.text("ask-button") == "Stop")
    page.until(lambda: "Hello" in page.all(".way .answer")[0].text)
    page.find("ask-button").click()
    page.until(lambda: page.text("ask-button") == "Ask")
    assert page.all(".way .answer")[0].text == "Stopped."


def test_nothing_typed_or_uploaded_becomes_markup(page: Page) -> None:
    before = len(page.all("img, script"))
    page.make(ATTACK)
    page.ask(ATTACK)
    page.upload("<img src=x onerror=document.title=1>.txt", ATTACK.encode())
    page.submit()
    page.open()
    assert len(page.all("img, script")) == before
    assert page.driver.title == "genadapter playground"


def test_history_labels_deletes_and_survives_a_reload(page: Page) -> None:
    made = page.make("To be deleted.")
    page.until(lambda: page.all(f"li[data-id={made}][aria-current=true]"))
    field = page.all(f"li[data-id={made}] input")[0]
    field.clear()
    field.send_keys("My label", Keys.TAB)
    page.open()
    page.until(lambda: page.all(f"li[data-id={made}]"))
    row = page.all(f"li[data-id={made}]")[0]
    assert row.find_element(By.TAG_NAME, "input").get_attribute("value") == "My label"
    use, _, delete = row.find_elements(By.TAG_NAME, "button")
    use.click()
    assert page.text("adapter-id") == made
    delete.click()
    assert delete.text == "Really delete?"
    delete.click()
    page.until(lambda: not page.all(f"li[data-id={made}]"))
    assert not page.find("adapter-card").is_displayed()


def test_an_adapter_grows(page: Page, open_service: Service) -> None:
    page.make("It cannot grow.")
    assert not page.find("adapter-grow").is_displayed()
    page.find("keep-state").click()
    first = page.make("The Orchid III is moored at pier 14.")
    assert "for 24 hours" in page.text("adapter-facts")
    page.find("adapter-grow").click()
    page.write("text", "Her captain is Ida Marsh.")
    second = page.submit()
    described = open_service.client.get(f"/adapters/{second}").json()
    assert (described["parent"], described["state_expires_at"] is None) == (first, False)
    open_service.engine.requests.clear()
    page.ask("Who?")
    in_prompt = open_service.engine.requests[-1]["messages"][0]["content"]
    assert in_prompt == "The Orchid III is moored at pier 14.\n\nHer captain is Ida Marsh.\n\nWho?"
    page.pick("conversation")  # the page goes on adding to the newest
    page.write("conversation", "User: She is blue." + Keys.CONTROL + Keys.ENTER)
    page.until(lambda: page.text("adapter-id") not in (first, second))
    assert open_service.client.get(f"/adapters/{page.text('adapter-id')}").json()["parent"] == second
    page.find("parent-clear").click()
    assert page.text("make-button") == "Make the adapter"
    use, grow, *_ = page.all(f"li[data-id={first}] button")
    assert (use.text, grow.text) == ("Use", "Add to")
    grow.click()
    assert page.find("parent-id").get_attribute("title") == first
    open_service.client.delete(f"/adapters/{first}")
    page.pick("text")
    page.write("text", "Too late.")
    page.find("make-button").click()
    page.until(lambda: page.text("make-error").startswith("No such adapter"))


def test_the_lines_to_paste_do_what_was_done(page: Page, tmp_path: Path) -> None:
    """The same request gives the same adapter: each line must print the id that the page shows."""
    page.find("keep-state").click()
    first = page.make('It\'s a "text" with $odd `signs` & ünïcode.\nTwo lines.')
    assert {printed(page, tmp_path, language) for language in ("curl", "python", "cli")} == {first}
    page.find("adapter-grow").click()
    page.pick("conversation")
    page.write("conversation", "User: more\nAssistant: yes")
    page.find("keep-state").click()
    second = page.submit()
    assert {printed(page, tmp_path, language) for language in ("curl", "python")} == {second}
    page.find("keep-state").click()
    page.upload("a 'file'.txt", b"of a few words")
    third = page.submit()
    assert {printed(page, tmp_path, language) for language in ("curl", "python", "cli")} == {third}
    page.ask("Who?")
    for language in ("curl", "python", "cli"):
        assert "Hello wörld" in run_line(page, tmp_path, language)


def printed(page: Page, folder: Path, language: str) -> str:
    found = re.search(r"ga-[0-9a-f]{32}", run_line(page, folder, language))
    assert found, language
    return found[0]


def run_line(page: Page, folder: Path, language: str) -> str:
    page.pick(language)
    line = page.text("code-text")
    command = [sys.executable, "-c", line] if language == "python" else ["bash", "-c", line]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def test_a_wrong_key_then_the_right_one(driver: Any, start_service: StartService, tmp_path: Path, page: Page) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{"name": "a", "tenant": "a", "sha256": hash_key("right")}]}))
    locked = Page(driver, start_service(api_keys_file=keys).url, tmp_path)
    locked.open()
    locked.until(lambda: locked.text("key-error") == "This service asks for an API key.")
    locked.write("key", "wrong" + Keys.TAB)
    locked.until(lambda: locked.text("key-error") == "The service does not know this API key.")
    assert "Bearer" not in locked.text("history-error"), "what programs send is no word for people"
    locked.write("key", "right" + Keys.TAB)
    locked.until(lambda: not locked.find("key-error").is_displayed() and locked.find("history-none").is_displayed())
    locked.make("A text of a known caller.")
    assert "$GENADAPTER_API_KEY" in locked.text("code-text")
    assert "right" not in locked.text("code-text")
    assert driver.execute_script("return localStorage.length + document.cookie.length") == 0


def test_a_service_that_is_away_is_told_in_words(page: Page) -> None:
    page.write("text", "Anything.")
    page.driver.execute_script("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.find("make-button").click()
    page.until(lambda: page.text("make-error").startswith("The service does not answer."))


def test_an_engine_that_is_away_is_told_once(page: Page, start_service: StartService) -> None:
    page.url = start_service(engine_url="http://127.0.0.1:9").url
    page.driver.get(page.url)
    page.until(lambda: "engine" in page.text("readiness"))
    page.make("The adapter can be made meanwhile.")
    assert "engine does not answer" in page.text("stages-note")
    assert page.ask("Who?") == [""] * 3
    assert page.text("ask-error").count("The engine does not answer") == 1
    assert re.search(r"try again shortly, in \d+ s\.$", page.text("ask-error"))


def test_what_a_program_noted_names_its_adapter(page: Page, open_service: Service) -> None:
    made = open_service.create("Made by a program.", metadata={"path": "logs/7.md"})["id"]
    page.find("history-reload").click()
    page.until(lambda: page.all(f"li[data-id={made}] input"))
    assert page.all(f"li[data-id={made}] input")[0].get_attribute("placeholder") == "logs/7.md"


def test_a_narrow_screen_and_both_themes(page: Page) -> None:
    page.make("word" * 200)
    page.ask("word" * 200)
    page.upload(f"{'name' * 40}.txt", b"A long name.")
    backgrounds = set()
    for scheme in ("light", "dark"):
        look(page.driver, PHONE, scheme)
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE
        drop, card = page.all(".drop strong")[0].rect, page.find("make").rect
        assert drop["x"] + drop["width"] < card["x"] + card["width"], "the drop zone stays in its card"
        backgrounds.add(page.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (PHONE, "dark")])
def test_accessibility(page: Page, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python", reason="the check needs the Python package axe-core-python")
    look(page.driver, width, scheme)
    page.make("For everybody.")
    page.ask("For whom?")
    page.driver.execute_script("document.querySelector('details').open = true")
    page.driver.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
    assert [(item["id"], item["impact"], [node["html"] for node in item["nodes"]]) for item in found] == []
