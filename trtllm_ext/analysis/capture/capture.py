"""A transformers model run as it is, with its residual stream and what attention adds to it written down.

What comes out is the input of a stack that was converted with attention_input: the stream before the first layer, and
each layer's attention. From there the engine gives the rest of the stream, which is compared with the model's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.analysis.capture.layer_hooks import check_is_stack, hooks_of
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.engines import MOST_BYTES, tapped_engine
from trtllm_ext.analysis.running.packing import batches_of_tokens
from trtllm_ext.checkpoint import convert
from trtllm_ext.checkpoint.convert.convert import plan_folder, read_model_config
from trtllm_ext.checkpoint.convert.stack import StackOptions
from trtllm_ext.errors import AnalysisError, BackendError, CheckpointError, InputError
from trtllm_ext.runtime import Session

Array = np.ndarray[Any, Any]

# An engine's float32 stream against torch's: roundings of every layer's products in another order.
AGREEMENT = 1e-4


@dataclass(frozen=True)
class Captured:
    """hidden_states: float32 [tokens, hidden], the stream before the first layer. attention_output: [layers, tokens,
    hidden], what attention adds. final: [tokens, hidden], the stream after the last layer. starts: the row at which
    each text begins, and the number of rows. ids: [tokens]. embeddings: where hidden_states is a sum of rows of several
    tables, these, [tokens, hidden] by the tables' paths in the model."""

    hidden_states: Array
    attention_output: Array
    final: Array
    ids: Array
    starts: tuple[int, ...]
    embeddings: dict[str, Array]

    def inputs(self) -> dict[str, Array]:
        """As the stack's engine takes them."""
        return {"hidden_states": self.hidden_states, "attention_output": self.attention_output}


def capture(model_dir: str, texts: Sequence[Sequence[int]], *, progress: Progress | None = None) -> Captured:
    """Run the model on each text by itself, in float32 on the CPU.

    texts: token ids of each. Raises CheckpointError for a model whose attention cannot be given to a stack from
    outside (norms after the sum, two stacks), InputError for ids that it has not and texts that are too long,
    BackendError where torch or transformers is missing. All of that before any weight is read. Raises
    CheckpointError for a stream with NaN or infinity, too.
    """
    config = read_model_config(Path(model_dir))
    check_is_stack(model_dir, config, plan_folder(Path(model_dir), config, StackOptions()))
    hooks = hooks_of(model_dir, plan_folder(Path(model_dir), config, StackOptions(attention_input=True)))
    _check_texts(texts, config, model_dir)
    tell = progress or silent
    tell("loading the model", 0, len(texts))
    torch, model = _load(model_dir, config)
    watched = hooks.attach(model)
    rows: list[dict[str, Array]] = []
    tables: list[dict[str, Array]] = []
    with torch.inference_mode():
        for number, text in enumerate(texts):
            tell("running the model", number, len(texts))
            watched.begin()
            model(input_ids=torch.tensor([list(text)]))
            rows.append(watched.taken())
            _check_finite(rows[-1], number + 1, model_dir)
            tables.append(watched.tables())
    tell("running the model", len(texts), len(texts))
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    return Captured(
        np.concatenate([row["hidden_states"] for row in rows]),
        np.concatenate([row["attention_output"] for row in rows], 1),
        np.concatenate([row["final"] for row in rows]),
        np.concatenate([np.asarray(text, np.int64) for text in texts]),
        tuple(int(start) for start in starts),
        {name: np.concatenate([each[name] for each in tables]) for name in _in_all(tables)},
    )


def _check_finite(taken: dict[str, Array], number: int, model_dir: str) -> None:
    for name, value in taken.items():
        if not np.isfinite(value).all():
            raise CheckpointError(
                f"text {number} makes NaN or infinity of {model_dir}'s stream ({name}). Nothing was written; give a "
                "model whose weights are intact."
            )


def _in_all(tables: Sequence[dict[str, Array]]) -> list[str]:
    """Where there is more than one: a single table's rows are hidden_states."""
    names = [name for name in tables[0] if all(name in each for each in tables)]
    return names if len(names) > 1 else []


def can_check(model_dir: str) -> bool:
    """Whether the model is small enough for its stack to be built on the fly."""
    files = (*Path(model_dir).glob("*.safetensors"), *Path(model_dir).glob("*.bin"))
    return sum(file.stat().st_size for file in files) <= MOST_BYTES


def check_against_engine(
    captured: Captured, *, model_dir: str | None = None, engine_dir: str | None = None
) -> float:
    """The largest difference between the engine's stream at the end and the model's, over the model's largest value.

    engine_dir: of the stack, converted with attention_input; without one the model is converted and built in float32.
    Raises AnalysisError where it is more than the type of the engine's stream explains.
    """
    if engine_dir is not None:
        return _compared(captured, engine_dir)
    assert model_dir is not None
    with tempfile.TemporaryDirectory(prefix="trtllm-ext-capture-") as folder:
        checkpoint = Path(folder) / "checkpoint"
        convert(model_dir, checkpoint, dtype="float32", attention_input=True)
        with tapped_engine(checkpoint_dir=checkpoint) as engine:
            return _compared(captured, str(engine))


def _compared(captured: Captured, engine_dir: str) -> float:
    with Session.from_engine_dir(engine_dir, 0) as session:
        names = [info.name for info in session.inputs]
        if "attention_output" not in names:
            raise InputError(
                f"{engine_dir} takes {', '.join(names)}, without attention_output. Convert the model with "
                "--attention_input, and build that."
            )
        outputs = [
            session.run(batch.arrays)["hidden_states_out"][: batch.num_rows]
            for batch in batches_of_tokens(session, captured.inputs())
        ]
    got = np.concatenate(outputs)
    roundings = {"float32": 1.0, "float16": 2.0**8, "bfloat16": 2.0**11}[got.dtype.name]
    away = float(
        np.abs(got.astype(np.float64) - captured.final).max() / max(np.abs(captured.final).max(), 1e-30)
    )
    if not away <= AGREEMENT * roundings:
        raise AnalysisError(
            f"the engine's stream ends {away:.3g} of its largest value away from the model's, where "
            f"{AGREEMENT * roundings:.1g} is expected of {got.dtype.name}. Nothing was written: either the engine "
            "is of another model, or what its layers do was not seen rightly; please report the latter."
        )
    return away


def _check_texts(texts: Sequence[Sequence[int]], config: dict[str, Any], model_dir: str) -> None:
    if not texts or not all(len(text) for text in texts):
        raise InputError("there is no text, or one without tokens; expected a token or more in each.")
    longest = next(
        (
            config[name]
            for name in ("max_position_embeddings", "n_positions")
            if isinstance(config.get(name), int)
        ),
        None,
    )
    vocab = config.get("vocab_size")
    for number, text in enumerate(texts, 1):
        if longest is not None and len(text) > longest:
            raise InputError(
                f"text {number} has {len(text)} tokens; {model_dir} has positions for {longest}. Shorten it."
            )
        wrong = [each for each in text if each < 0 or (isinstance(vocab, int) and each >= vocab)]
        if wrong:
            raise InputError(
                f"text {number} has the token id {wrong[0]}; the vocabulary of {model_dir} has the ids 0 to "
                f"{vocab - 1 if isinstance(vocab, int) else '?'}."
            )


def _load(model_dir: str, config: dict[str, Any]) -> tuple[Any, Any]:
    """torch and the model, in float32."""
    try:
        import torch
        import transformers
    except ImportError as problem:
        raise BackendError(
            f"capturing runs the model in torch with transformers, and {problem.name} is missing. Install both: "
            "pip install 'trtllm-ext[hf,torch]'"
        ) from None
    name = config["architectures"][0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise CheckpointError(f"transformers {transformers.__version__} has no {name}; install one that has.")
    logging = transformers.utils.logging
    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the command has one of its own
    try:
        model = kind.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as problem:
        raise CheckpointError(f"transformers does not load {model_dir}: {problem}.") from problem
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()
    return torch, model.eval()
