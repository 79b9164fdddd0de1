"""The README's picture, of a running service: `python -m tests.e2e.picture [URL [FILE]]`.

Fills in the sample, asks its question twice (the first time also loads the adapter) and keeps the page down to the
answers. Take it on a machine with nothing else to do: the times are in the picture.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.e2e.browser import Page, chromium, look

WIDTH = 1200
SETTLE_S = 1.0  # the bars' transitions
BELOW = "return document.getElementById('ask').getBoundingClientRect().bottom + scrollY + 24"


def take(url: str, file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        driver = chromium(Path(folder) / "profile")
        try:
            page = Page(driver, url, Path(folder))
            look(driver, WIDTH, "light")
            page.open()
            page.find("sample").click()
            made = page.submit()
            if page.text("adapter-badge") != "new":  # made before: its times would all be zero
                httpx.delete(f"{url.rstrip('/')}/adapters/{made}").raise_for_status()
                page.submit()
            question = page.find("question").get_attribute("value")
            for _ in range(2):
                page.ask(question)
            driver.execute_script("document.activeElement.blur()")
            time.sleep(SETTLE_S)
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": driver.execute_script(BELOW), "scale": 1}
            options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
            file.write_bytes(base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
        finally:
            driver.quit()


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    take(arguments.get(0, "http://127.0.0.1:8000/"), Path(arguments.get(1, "docs/playground.png")))
