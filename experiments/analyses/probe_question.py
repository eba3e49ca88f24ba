"""The question that `jaxasr probe` asks. Importing this file does not load JAX."""

import dataclasses

from jaxasr import sites

# Labels of frames rather than recordings: tiers of phones and words, energy in dB, pitch in Hz.
FRAME_CLASSES = ("phone", "word")
FRAME_VALUES = ("energy", "f0")
TARGETS = ("class", "value")
TEXTS = ("greedy", "transcript")


@dataclasses.dataclass(frozen=True)
class ProbeQuestion:
    """A probing experiment, as the options of `jaxasr probe` describe it.

    Attributes:
        label: column that probes predict, or one of `FRAME_CLASSES` and `FRAME_VALUES`.
        site: site whose activations they read.
        pool: how the activations of a recording become one row; "frames": every frame is a row.
        group: column that is never on both sides of a fold.
        types: column of types for the control task.
        target: "class", or "value" for numbers.
        penalties: strengths of the L2 penalty.
        folds: of the cross-validation.
        seeds: of the folds.
        min_count: classes with fewer rows are left out.
        max_rows: most frames; more are sampled.

    Raises:
        ValueError: for an option that no model can fulfil.
    """

    label: str
    site: str = "encoder.resid_post"
    pool: str = "speech"
    group: str | None = None
    types: str | None = None
    target: str = "class"
    penalties: tuple[float, ...] = (1.0,)
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    min_count: int = 0
    max_rows: int = 6000

    def __post_init__(self) -> None:
        sites.check_known([self.site])
        if self.target not in TARGETS:
            raise ValueError(f"--target: expected class or value, got {self.target!r}.")
        for penalty in self.penalties:
            if penalty < 0:
                raise ValueError(f"--penalty: expected numbers from 0 on, got {penalty:g}.")

    @property
    def frames(self) -> bool:
        """Whether every frame is a row."""
        return self.pool == "frames"

    @property
    def embedding_site(self) -> str:
        """The site before all layers, which the layers are compared with."""
        return f"{sites.stack_of(self.site)}.embed"

    @property
    def columns(self) -> dict[str, str | None]:
        """Columns that the question names, by option."""
        return {"--label": self.label, "--group": self.group, "--types": self.types}


def default_pool(label: str, site: str) -> str:
    """Returns the pool that suits a label and a site."""
    if label in (*FRAME_CLASSES, *FRAME_VALUES):
        return "frames"
    return "last" if sites.stack_of(site) == "decoder" else "speech"


def default_target(label: str, target: str) -> str:
    """Returns "value" for labels of frames that are numbers, else `target`."""
    return "value" if label in FRAME_VALUES else target
