"""Which studies there are: every file of `experiments/studies`, by the letters and digits its name begins with."""

import importlib
import pkgutil
import re
from collections.abc import Iterable
from typing import Any


def names() -> dict[str, str]:
    """Module of every study by its id, `{"E7": "experiments.studies.e7_encoder_lens"}`; imports none of them."""
    from experiments import studies

    found = [
        match
        for module in pkgutil.iter_modules(studies.__path__)
        if (match := re.match(r"([a-z])(\d+)_\w+$", module.name))
    ]
    ordered = sorted(
        found, key=lambda match: (match[1] != "e", match[1], int(match[2]))
    )  # the paper's come first
    return {f"{match[1].upper()}{match[2]}": f"{studies.__name__}.{match[0]}" for match in ordered}


def study(name: str) -> Any:
    """The `STUDY` of an id such as "E7"."""
    return importlib.import_module(names()[chosen([name])[0]]).STUDY


def chosen(wanted: Iterable[str]) -> list[str]:
    """Ids in the order of the registry, `all` for all of them. Raises ValueError listing what there is."""
    known, asked = names(), [name.upper() for name in wanted]
    if unknown := [name for name in asked if name not in (*known, "ALL")]:
        raise ValueError(
            f"reproduce: unknown experiment {', '.join(unknown)}. There are: {', '.join(known)}, all."
        )
    return [name for name in known if name in asked or "ALL" in asked]
