"""Finds the studies, which are files such as `experiments/studies/e7_encoder_lens.py`."""

import importlib
import pkgutil
import re
from collections.abc import Iterable

from experiments.studies.study import Study


def study_modules() -> dict[str, str]:
    """Lists the studies without importing them.

    Returns:
        Module name by study id, as in `{"E7": "experiments.studies.e7_encoder_lens"}`. The paper's
        experiments (E1, E2, ...) come first.

    Example:
        >>> study_modules()["E7"]
        'experiments.studies.e7_encoder_lens'
    """
    from experiments import studies

    matches = [
        match
        for module in pkgutil.iter_modules(studies.__path__)
        if (match := re.match(r"([a-z])(\d+)_\w+$", module.name))
    ]
    # Group 1 is the letter of a file name and group 2 its number. The letter "e" sorts first.
    matches.sort(key=lambda match: (match[1] != "e", match[1], int(match[2])))
    return {f"{match[1].upper()}{match[2]}": f"{studies.__name__}.{match[0]}" for match in matches}


def study(name: str) -> Study:
    """Imports the study with an id such as "E7".

    Raises:
        ValueError: the id is unknown.

    Example:
        >>> study("E7").section
        'section 4.6'
    """
    [study_id] = sort_study_ids([name])
    return importlib.import_module(study_modules()[study_id]).STUDY


def sort_study_ids(ids: Iterable[str]) -> list[str]:
    """Sorts study ids into the order of the registry.

    Args:
        ids: ids in upper or lower case; "all" for all studies.

    Returns:
        Ids in upper case.

    Raises:
        ValueError: an id is unknown; the message lists the studies.

    Example:
        >>> sort_study_ids(["e8", "E7"])
        ['E7', 'E8']
    """
    studies, requested = study_modules(), [name.upper() for name in ids]
    if unknown := [name for name in requested if name not in (*studies, "ALL")]:
        raise ValueError(
            f"reproduce: expected experiments out of {', '.join(studies)}, all; "
            f"got {', '.join(unknown)}."
        )
    return [name for name in studies if name in requested or "ALL" in requested]
