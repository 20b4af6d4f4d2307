"""Published comparisons by name: what was compared, what it was claimed to show, and how to run it again."""

from benchmarks.presets.types import PRESETS, Arm, Claim, Measure, Preset, Scale, ScaleName
from registry.catalogue import import_submodules

__all__ = ["PRESETS", "Arm", "Claim", "Measure", "Preset", "Scale", "ScaleName"]

import_submodules("benchmarks.presets")
