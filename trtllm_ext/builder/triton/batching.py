"""Whether Triton may join the requests of a model, and up to how many rows.

Triton's rule (docs/user_guide/model_configuration.md of triton-inference-server/server): with a max_batch_size above 0
the first dimension of every input and every output is the batch. Requests whose other dimensions are the same are put
together along it, and the answer is cut along it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.builder.triton.config import MOST_ROWS
from trtllm_ext.models import MODELS
from trtllm_ext.runtime.envelope import TensorSummary


@dataclass(frozen=True)
class Batching:
    """max_rows: most rows of joined requests; 0 where they must not be joined. reason: a sentence."""

    max_rows: int
    reason: str


def batching_of(
    config: EngineConfig, inputs: Sequence[TensorSummary], outputs: Sequence[TensorSummary]
) -> Batching:
    """What holds for an engine of that config with those inputs and outputs."""
    if obstacle := _obstacle(config, inputs, outputs):
        return Batching(0, f"Requests are run one by one, each with full shapes: {obstacle}.")
    # Of each profile, what all inputs take.
    profiles = zip(*(each.profiles for each in inputs), strict=True)
    most = max(min(largest[0] for _, _, largest in shapes) for shapes in profiles)
    name = next((each.dim_names[0] for each in inputs if each.dim_names), "") or "the first dimension"
    varying = any(-1 in each.shape[1:] for each in inputs)
    return Batching(
        min(most, MOST_ROWS),
        f"Requests are joined along {name}, which dims leaves out: no row depends on another one. A batch has "
        f"{most} rows at most."
        + (" Only requests that are alike in their other dimensions are joined." if varying else ""),
    )


def _obstacle(
    config: EngineConfig, inputs: Sequence[TensorSummary], outputs: Sequence[TensorSummary]
) -> str | None:
    architecture = str(config.pretrained_config.get("architecture"))
    model = MODELS.get(architecture)
    if model is None or not model.has_independent_rows:
        return f"whether rows of architecture {architecture!r} depend on each other is not known"
    for tensor in (*inputs, *outputs):
        if not tensor.shape or tensor.shape[0] != -1:
            length = tensor.shape[0] if tensor.shape else "none"
            return f"the first dimension of {tensor.name!r} is fixed ({length}), so that it is no batch"
    names = {each.dim_names[0] for each in inputs if each.dim_names}
    if len(names) > 1:
        return f"the inputs have several first dimensions ({', '.join(sorted(names))})"
    unknown = [name for name, tap in config.taps.items() if not tap.is_known]
    if unknown:
        return f"what the first dimension of {unknown[0]!r} means is not known"
    return None
