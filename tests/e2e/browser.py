"""A real browser and the page at / as somebody sees it in one. Needs Chromium and its driver (Debian: `apt-get install
chromium chromium-driver`) and the Python package selenium."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="the browser tests need the Python package selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

__all__ = ["CHROMIUM", "DRIVER", "By", "Keys", "Page", "chromium", "look"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
]
WAIT_S = 60


class Page:
    """The page as somebody sees it."""

    def __init__(self, driver: Any, url: str, folder: Path) -> None:
        self.driver, self.url, self.folder = driver, url, folder

    def open(self) -> None:
        self.driver.get(self.url)
        self.until(lambda: self.text("readiness") == "Ready")

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, WAIT_S).until(lambda _: condition())

    def find(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def text(self, name: str) -> str:
        text: str = self.find(name).text
        return text

    def pick(self, value: str) -> None:
        self.all(f"input[value={value}]")[0].click()

    def write(self, name: str, text: str) -> None:
        self.find(name).clear()
        self.find(name).send_keys(text)

    def make(self, text: str) -> str:
        """Makes an adapter of a text and returns its id."""
        self.pick("text")
        self.write("text", text)
        return self.submit()

    def submit(self) -> str:
        self.find("make-button").click()
        self.until(lambda: not self.find("make-button").get_attribute("aria-disabled"))
        assert not self.find("make-error").is_displayed(), self.text("make-error")
        return self.text("adapter-id")

    def upload(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.write_bytes(data)
        self.pick("file")
        self.find("files").clear()  # the driver would add to what is chosen
        self.find("files").send_keys(str(path))

    def ask(self, question: str) -> list[str]:
        """The three answers, once they are all there."""
        self.write("question", question)
        self.find("ask-button").click()
        self.until(lambda: self.text("ask-button") == "Ask")
        return [answer.text for answer in self.all(".way .answer")]

    def complaints(self) -> list[str]:
        """Errors and warnings in the browser's console: a blocked script, a missing file."""
        return [item["message"] for item in self.driver.get_log("browser") if item["level"] in ("SEVERE", "WARNING")]


def chromium(profile: Path) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The driver is named, so that selenium does not go and look for one.
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))


def look(driver: Any, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
