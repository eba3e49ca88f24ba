"""Generates and scores texts under edits. All other sweeps score one teacher-forced pass."""

from interventions.generation import transcripts as transcripts
from interventions.generation.cells import (
    generate_cells as generate_cells,
    text_logprobs as text_logprobs,
)
from interventions.generation.encoder_cells import generate_encoder_cells as generate_encoder_cells
from interventions.generation.sweeps import (
    generation_sweep as generation_sweep,
    sequence_sweep as sequence_sweep,
)
