"""`python -m jaxasr` runs the command line, `jaxasr`."""

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
        SystemExit: `experiments` is missing, or is another project's folder of that name.
    """
    # By name, because no module of `jaxasr` imports from the packages above it.
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
