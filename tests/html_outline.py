"""Parses a page into its elements, and opens it in a browser."""

import html.parser
import shutil
import subprocess
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Outline(html.parser.HTMLParser):
    """Lists every element with its attributes and the text directly inside it."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}, []))

    def handle_data(self, data):
        if self.elements:
            self.elements[-1][2].append(data)

    def of(self, tag: str, **attributes: str):
        return [
            (a, "".join(text).strip())
            for name, a, text in self.elements
            if name == tag and attributes.items() <= a.items()
        ]


def open_in_browser(page: Path, folder: Path) -> str:
    """Opens a page in headless Chromium and returns the DOM. Fails if the console has a message."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder}/profile",
        "--virtual-time-budget=2000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout
