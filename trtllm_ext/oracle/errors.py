"""What the oracle raises."""

from __future__ import annotations

from trtllm_ext.errors import BuildError


class OracleError(BuildError):
    """The oracle cannot say what a network means: an unknown layer kind, inputs that do not fit, undefined maths."""
