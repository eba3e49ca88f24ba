"""Options and recordings of small activation stores, and the files that a store consists of."""

from pathlib import Path

SITE = "encoder.resid_post"
LENGTHS_S = [0.5, 1.01, 0.3, 2.0, 0.7]  # seconds of each recording
# Options of a store with every kind of variable.
STORE_OPTIONS = {
    "sites": (SITE, "encoder.mlp.post", "encoder.ln_post"),
    "pool": ("speech", "all", "last", 3, "frames"),
    "batch": 2,
}


def variable_files(path: Path) -> dict[str, bytes]:
    """Reads the files of all variables, without the group's attributes.

    The attributes contain times and commands, which differ between equal stores.
    """
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent != path
    }
