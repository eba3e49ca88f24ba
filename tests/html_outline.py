"""Parses a page into its elements, and finds the browser that opens it."""

import html.parser
import shutil

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Outline(html.parser.HTMLParser):
    """Every element with its attributes and the text right inside it."""

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
