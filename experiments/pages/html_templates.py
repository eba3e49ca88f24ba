"""Loads the templates of pages, and formats values for them."""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2


def template(name: str) -> str:
    """Returns the text of a file in `experiments/pages/templates`.

    Example:
        >>> template("base.html")[:15]
        '<!doctype html>'
    """
    folder = resources.files("experiments").joinpath("pages", "templates")
    return folder.joinpath(name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Returns a Jinja environment that loads the templates.

    The environment escapes all texts, and raises an error for an undefined name.

    Example:
        >>> environment().from_string("<b>{{ token | visible }}</b>").render(token=" <a>")
        '<b>·&lt;a&gt;</b>'
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
    """Returns a content security policy, by which browsers load nothing from outside the page.

    Args:
        media: whether the page may play the sounds that it contains.
        script: text of the only script that may run. None: no script may run.

    Example:
        >>> policy()
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    """
    rules = ["default-src 'none'", "img-src data:"]
    rules += ["media-src data:"] if media else []
    rules.append("style-src 'unsafe-inline'")
    if script is not None:  # browsers run a script only if it has this hash
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
    return "; ".join(rules)


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flattens a nested dictionary into a list of (key, text). Dots join the keys of all levels.

    Example:
        >>> flat({"model": {"name": "tiny.en"}})
        [('model.name', 'tiny.en')]
    """
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += flat(value, f"{name}.") if isinstance(value, dict) else [(name, str(value))]
    return rows


def _show_whitespace(token: str) -> str:
    """Replaces spaces, line ends, tabs and empty tokens by visible characters."""
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥") or "∅"
