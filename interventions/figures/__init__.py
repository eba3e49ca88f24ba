"""Draws sweeps and probes as figures, and saves them without a display."""

from interventions.figures.files import save as save
from interventions.figures.maps import Word as Word, plot as plot
from interventions.figures.plots import (
    draw_curve as draw_curve,
    draw_heat_map as draw_heat_map,
    escape_for_drawing as escape_for_drawing,
    legend_outside as legend_outside,
    panels as panels,
)
