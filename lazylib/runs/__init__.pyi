from .files import digest as digest
from .files import source_digest as source_digest
from .files import write as write
from .rng import generator as generator
from .sweeps import Paused as Paused
from .sweeps import sweep as sweep
from .sweeps import time_left as time_left
