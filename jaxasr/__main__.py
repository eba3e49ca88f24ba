"""Runs the command line `jaxasr` when Python is called with `-m jaxasr`."""

import importlib
from pathlib import Path

_INSTALL = (
    "jaxasr: the command line is in the package `experiments`, which is not installed next to "
    "`jaxasr`{found}. Install the whole distribution: pip install jaxasr, or pip install -e . in a "
    "clone."
)


def main() -> None:
    """Runs the command line.

    Raises:
        SystemExit: the package `experiments` is missing, or Python finds another one.
    """
    # Imported by name, because `jaxasr` must also work without the package `experiments`.
    try:
        cli = importlib.import_module("experiments.cli")
    except ModuleNotFoundError as error:
        if error.name not in ("experiments", "experiments.cli"):
            raise
        raise SystemExit(_INSTALL.format(found="")) from None
    folder = Path(str(cli.__file__)).parents[1]
    if folder != Path(__file__).parents[1]:
        raise SystemExit(_INSTALL.format(found=f" (Python finds another one in {folder})"))
    cli.app(prog_name="jaxasr")


if __name__ == "__main__":
    main()
