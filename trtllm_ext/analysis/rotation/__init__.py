"""The residual stream in another basis: norms folded, a rotation folded into all that reads or writes it.

`rotate_checkpoint` for checkpoint directories, `rotate_folder` for Hugging Face's; `load_transform` for how the
rotated network's inputs and outputs relate to the original's.
"""

from __future__ import annotations

from trtllm_ext.analysis.rotation.checkpoints import (
    Rotated,
    chosen_rotation,
    rotate_checkpoint,
    rotated_in_memory,
)
from trtllm_ext.analysis.rotation.folders import RotatedFolder, rotate_folder
from trtllm_ext.analysis.rotation.hadamard import hadamard, hadamard_order
from trtllm_ext.analysis.rotation.matrices import (
    KINDS,
    ORTHOGONAL_LIMIT,
    Rotation,
    make_rotation,
    read_rotation,
)
from trtllm_ext.analysis.rotation.transform import StreamTransform, load_transform

__all__ = [
    "KINDS",
    "ORTHOGONAL_LIMIT",
    "Rotated",
    "RotatedFolder",
    "Rotation",
    "StreamTransform",
    "chosen_rotation",
    "hadamard",
    "hadamard_order",
    "load_transform",
    "make_rotation",
    "read_rotation",
    "rotate_checkpoint",
    "rotate_folder",
    "rotated_in_memory",
]
