"""What our own graph API computes on the embedded engine: what TensorRT-LLM's graph API is to compute too.

    python references.py FOLDER

Writes, for each form of SublayerStack and each type, and for an Encoder, a checkpoint and, beside it, a file of the
inputs and of all outputs, taps among them.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["TRTLLM_EXT_BACKEND"] = "embedded"
    sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from stack_forms import TABLE, TOKENS, config_of
from sublayer_formulas import DTYPES as NUMPY_OF

import trtllm_ext as tx
from trtllm_ext.builder.seeded_inputs import input_values
from trtllm_ext.models import encoder_config, model_from_checkpoint, write_random_checkpoint

SIZES = {
    "hidden_size": 16,
    "ffn_hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 30,
    "max_position_embeddings": 12,
}
LIMITS = {
    "SublayerStack": {"max_num_tokens": 32},
    "Encoder": {"max_batch_size": 4, "max_input_len": 12},
}
DTYPES = ("float32", "float16", "bfloat16")


def names():
    """Of the folders that `write` makes."""
    return [f"{kind}-{dtype}" for kind in (*_slugs(), "encoder") for dtype in DTYPES]


def _slugs():
    return {
        f"{number:02}-{name.replace(' ', '_')}": form for number, (name, form) in enumerate(TABLE.items())
    }


def write(folder, dtypes=DTYPES, forms=tuple(TABLE)):
    """forms: of `stack_forms.TABLE`; the Encoder always."""
    for dtype in dtypes:
        for (name, form), slug in zip(TABLE.items(), _slugs(), strict=True):
            if name in forms:
                _write_one(folder / f"{slug}-{dtype}", config_of(form, dtype))
        _write_one(folder / f"encoder-{dtype}", encoder_config(**SIZES, dtype=dtype))


def _write_one(path, config):
    write_random_checkpoint(path, config, seed=1)
    engine = tapped(path)
    sizes, generator = config.to_dict(), np.random.default_rng(3)
    values = {}
    for tensor in engine.inputs:
        shape = (3, 7) if config.architecture == "Encoder" else (TOKENS, *tensor.shape[1:])
        values[tensor.name] = input_values(tensor, shape, sizes, generator)
    if "attention_mask" in values:
        values["attention_mask"][1, 4:] = 0
    with tx.Session.from_serialized_engine(engine.engine) as session:
        outputs = session.run(values)
    arrays = {f"in.{name}": plain(value) for name, value in values.items()}
    np.savez(
        path / "answer.npz", **arrays, **{f"out.{name}": plain(value) for name, value in outputs.items()}
    )


def check_surgery(path, inputs, expected, tolerance):
    """An engine of the graph API in use, with surgery: as it is, and with a contribution put into others' place.

    inputs, expected: what the engine without surgery takes and gives, taps among them, as `plain` has them.
    """
    model = model_from_checkpoint(path)
    limits = LIMITS[model.config.architecture]
    engine = tx.build(
        model, tx.BuildConfig(**limits, taps=["*"], surgery=["*.mlp.contribution", "*.mlp.after"])
    )
    dtypes = {each.name: NUMPY_OF.get(each.dtype, np.int32) for each in engine.inputs}
    given = {name: value.astype(dtypes[name]) for name, value in inputs.items()}
    first = "transformer.layers.0.mlp.contribution"
    put = np.random.default_rng(4).normal(size=expected[first].shape).astype(dtypes[f"{first}.add"])
    changes = {f"{first}.scale": np.zeros(1, np.float32), f"{first}.add": put}
    defaults = engine.config.input_defaults
    with tx.Session.from_serialized_engine(engine.engine, input_defaults=defaults) as session:
        for name, value in session.run(given).items():
            error = np.abs(plain(value) - expected[name]).max()
            assert error <= tolerance * np.abs(expected[name]).max(), name
        changed = {name: plain(value) for name, value in session.run({**given, **changes}).items()}
    np.testing.assert_array_equal(changed[first], plain(put))
    before = "transformer.layers.0.mlp.before"
    assert np.abs(changed[before] - expected[before]).max() <= tolerance * np.abs(expected[before]).max()
    for name in expected:
        if name.startswith("transformer.layers.1") or not name.startswith("transformer"):
            assert np.abs(changed[name] - expected[name]).max() > 0, name


def tapped(path):
    """The engine of a checkpoint, with everything that it can show."""
    model = model_from_checkpoint(path)
    return tx.build(model, tx.BuildConfig(**LIMITS[model.config.architecture], taps=["*"]))


def plain(value):
    """As a file of numpy's keeps it: without bfloat16."""
    return np.asarray(value, np.float32) if value.dtype.kind not in "iub" else np.asarray(value)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
