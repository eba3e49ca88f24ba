"""Loads the templates of pages, which open from disk and load nothing."""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2


def template(name: str) -> str:
    """Returns the text of a file of `experiments/pages/templates`."""
    folder = resources.files("experiments").joinpath("pages", "templates")
    return folder.joinpath(name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Returns Jinja with these templates: it escapes all texts, and refuses undefined names."""
    jinja = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["visible"] = _visible
    return jinja


def policy(*, media: bool = False, script: str | None = None) -> str:
    """Returns a content security policy that forbids every load.

    Args:
        media: whether the page plays sound that it contains.
        script: the one script that may run. None: no script.
    """
    rules = ["default-src 'none'", "img-src data:"]
    rules += ["media-src data:"] if media else []
    rules.append("style-src 'unsafe-inline'")
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
    return "; ".join(rules)


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Lists nested values as rows of (dotted key, text)."""
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += flat(value, f"{name}.") if isinstance(value, dict) else [(name, str(value))]
    return rows


def _visible(token: str) -> str:
    """Makes spaces, line ends and empty tokens visible."""
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥") or "∅"
