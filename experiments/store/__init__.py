"""Stores the activations of a corpus on disk. `extract` computes them, and `open` reads them."""

from experiments.store.extracting import covers as covers, extract as extract
from experiments.store.layout import StoreError as StoreError
from experiments.store.reading import Store as Store, open as open
