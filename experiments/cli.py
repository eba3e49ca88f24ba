"""The command line: `jaxasr COMMAND --help`.

Each command is one file of `experiments.commands`; it imports JAX only when it runs, so that help is quick.
"""

import typer

from experiments.commands import align, demo, info, lens, patch, probe, reproduce, scan, transcribe
from experiments.commands.errors import friendly

# name: the function, and the example its help ends with
COMMANDS = {
    "demo": (demo.demo, demo.EXAMPLE),
    "info": (info.info, info.EXAMPLE),
    "transcribe": (transcribe.transcribe, transcribe.EXAMPLE),
    "align": (align.align, align.EXAMPLE),
    "scan": (scan.scan, scan.EXAMPLE),
    "lens": (lens.lens, lens.EXAMPLE),
    "patch": (patch.patch, patch.EXAMPLE),
    "probe": (probe.probe, probe.EXAMPLE),
    "reproduce": (reproduce.reproduce, reproduce.EXAMPLE),
}

app = typer.Typer(
    name="jaxasr",
    help="Whisper, opened: transcribe a recording and see what every layer hears and would write.",
    epilog="Compiled programs are kept in the user's cache folder; JAXASR_CACHE moves it, JAXASR_CACHE=off keeps nothing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_RESUMED = ("patch", "probe", "reproduce")  # keep what is done in --out

for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example:  {_example}")(
        friendly(_command, resumes=_name in _RESUMED)
    )


if __name__ == "__main__":
    app()
