"""Loads the templates of pages. A page opens from disk and loads no other file."""

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
    """Returns a Jinja environment of the templates.

    It escapes all texts, and raises an error for an undefined name.
    """
    jinja = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["visible"] = _show_whitespace
    return jinja


def policy(*, media: bool = False, script: str | None = None) -> str:
    """Returns a content security policy that forbids a page to load anything.

    Args:
        media: whether the page may play sound that it contains.
        script: text of the only script that may run. None: no script may run.
    """
    rules = ["default-src 'none'", "img-src data:"]
    rules += ["media-src data:"] if media else []
    rules.append("style-src 'unsafe-inline'")
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
    return "; ".join(rules)


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flattens nested values into a list of (key, text), with dots in the keys of inner values."""
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += flat(value, f"{name}.") if isinstance(value, dict) else [(name, str(value))]
    return rows


def _show_whitespace(token: str) -> str:
    """Replaces spaces, line ends, tabs and empty tokens by visible characters."""
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥") or "∅"
