import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # golden/ is shared with the tests that need no torch
