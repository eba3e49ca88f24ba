"""Describes the experiment of `jaxasr probe`. The import does not load JAX."""

import dataclasses

from experiments.site_names import check_site

# Labels of frames, not of recordings.
FRAME_CLASSES = ("phone", "word")  # from time-aligned annotations
FRAME_VALUES = ("energy", "f0")  # numbers in dB and in Hz
TARGETS = ("class", "value")  # kinds of labels: classes, or numbers
TEXTS = ("greedy", "transcript")  # texts that the decoder reads
POOLS = ("speech", "audio", "all", "last", "frames")  # a pool may also be the number of a position


@dataclasses.dataclass(frozen=True)
class ProbeQuestion:
    """A probing experiment, as the options of `jaxasr probe` describe it.

    Attributes:
        label: column that probes predict, or one of `FRAME_CLASSES` and `FRAME_VALUES`.
        site: site whose activations the probes read.
        pool: how the activations of a recording become one row. "frames": every frame is a row.
        group: column such as "speaker". Rows with equal values are all fitted or all held out.
        types: column of types for the control task, in which each type has a random label.
        target: "class", or "value" for numbers.
        penalties: strengths of the L2 penalty.
        folds: number of folds of the cross-validation.
        seeds: seeds of the random splits into folds.
        min_count: classes with fewer rows are left out.
        max_rows: largest number of frames. If there are more, a random sample of this size is used.

    Raises:
        ValueError: an option has a value that no model supports.

    Example:
        >>> ProbeQuestion("gender", site="decoder.mlp_out").embedding_site
        'decoder.embed'
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
        check_site(self.site)
        if self.pool not in POOLS and not self.pool.removeprefix("-").isdigit():
            raise ValueError(
                f"--pool: expected {', '.join(POOLS)} or the number of a position, got "
                f"{self.pool!r}."
            )
        if self.target not in TARGETS:
            raise ValueError(f"--target: expected class or value, got {self.target!r}.")
        for penalty in self.penalties:
            if penalty < 0:
                raise ValueError(f"--penalty: expected numbers of at least 0, got {penalty:g}.")

    @property
    def frames(self) -> bool:
        """Whether every frame is a row."""
        return self.pool == "frames"

    @property
    def embedding_site(self) -> str:
        """The embedding that enters the first layer. Its probes are a baseline for all layers."""
        return f"{self.site.partition('.')[0]}.embed"

    @property
    def columns(self) -> dict[str, str | None]:
        """The column of the manifest that each option names. None: the option is not given."""
        return {"--label": self.label, "--group": self.group, "--types": self.types}


def default_pool(label: str, site: str) -> str:
    """Returns the pool for a label and a site if --pool is not given.

    Example:
        >>> default_pool("phone", "encoder.resid_post")
        'frames'
    """
    if label in (*FRAME_CLASSES, *FRAME_VALUES):
        return "frames"
    return "last" if site.startswith("decoder.") else "speech"


def default_target(label: str, target: str) -> str:
    """Returns "value" for a label in `FRAME_VALUES`, else `target`.

    Example:
        >>> default_target("energy", "class")
        'value'
    """
    return "value" if label in FRAME_VALUES else target
