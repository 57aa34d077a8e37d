"""The experiment spec: what people write to submit a run, checked, as data.

Owns the form of the file (the models, in ``spec_fields.py``) and its errors; hosts and files are looked up in
``spec_compile.py``. Everything that is wrong is reported at once, with file, line and path in the document. Imports
pydantic and YAML: not for the way to a command's first request. Entry points: ``load_experiment``,
``compile_experiment``, ``pack_experiment``, ``experiment_schema``.
"""

from __future__ import annotations

from .spec_compile import Blobs, Packed, compile_experiment, pack_experiment
from .spec_fields import Experiment
from .spec_load import (
    MAX_TEXT_BYTES,
    SpecError,
    SpecErrors,
    experiment_from_mapping,
    experiment_from_options,
    experiment_schema,
    load_experiment,
)

__all__ = [
    "MAX_TEXT_BYTES",
    "Blobs",
    "Experiment",
    "Packed",
    "SpecError",
    "SpecErrors",
    "compile_experiment",
    "experiment_from_mapping",
    "experiment_from_options",
    "experiment_schema",
    "load_experiment",
    "pack_experiment",
]
