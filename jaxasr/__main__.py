"""Runs the command line `jaxasr` when Python is called with `-m jaxasr`."""

import importlib
from pathlib import Path

_NOT_FOUND = (
    "jaxasr: the command line is in the package `experiments`, which is not installed next to "
    "`jaxasr`{found}. Install the whole distribution: pip install jaxasr, or pip install -e . in a "
    "clone."
)


def main() -> None:
    """Runs the command line.

    Raises:
        SystemExit: the package `experiments` is missing, or Python finds another package of this
            name.
    """
    # An `import` statement would need `experiments`, but `jaxasr` must also work without it.
    try:
        cli = importlib.import_module("experiments.cli")
    except ModuleNotFoundError as error:
        if error.name not in ("experiments", "experiments.cli"):
            raise
        raise SystemExit(_NOT_FOUND.format(found="")) from None
    folder = Path(str(cli.__file__)).parents[1]
    if folder != Path(__file__).parents[1]:
        raise SystemExit(_NOT_FOUND.format(found=f" (Python finds another one in {folder})"))
    cli.app(prog_name="jaxasr")


if __name__ == "__main__":
    main()
