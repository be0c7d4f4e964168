"""Cases of the other scripts in the order of what they tell, for a GPU that is there for minutes only.

    PYTHONPATH=.:tests python tests/on_tensorrt/batch_on_tensorrt.py FILE --processes 10 --limit 60 --seconds 170 [...]

The options and the lines of FILE are those of `cases`. What comes late may not be run.
"""

import sys
from functools import partial
from typing import Any
from unittest import mock

import cases
import engines
from forms_on_tensorrt import PREFER, QUICK, SLOW, form, titled
from small_models import ENCODERS, NAMES

from trtllm_ext.graph import Tensor, functional
from trtllm_ext.graph.functional import constants

_FAULTS = [
    f"{dtype} {form}: {title}"
    for title, forms in (
        ("one weight changed", ("gpt2", "llama_swiglu")),
        ("one activation swapped at the build", ("gpt2", "llama_swiglu")),
        ("one weight changed, without taps, bisected", ("gpt2",)),
        ("one activation swapped in the code", ("gpt2",)),
        ("right, bisected", ("gpt2",)),
    )
    for form in forms
    for dtype in ("float32", "float16")
]
_FLOAT16 = [*ENCODERS, *(name for name in NAMES if name not in (*SLOW, *ENCODERS))]
# Of 8.6 these have no build in float16 that obeys, at least with taps.
_PREFERRED = ("mixture_softmax_shared", *ENCODERS)
_SEEN_BEFORE = ("bert", "gpt2", "squared_relu", "quick_gelu", "relu_post_norm", "mixture_softmax_shared")


def _sigmoid(input: Tensor) -> Tensor:
    """The same by another layer: (1 + tanh(x / 2)) / 2."""
    return functional.tanh(input * 0.5) * 0.5 + 0.5


def _layer(method: str, input: Tensor, *rest: Any) -> Any:
    """As `add_layer`, with an identity for a cast: its output's type makes it one where networks are weakly typed."""
    return _ADD_LAYER(*(("add_identity", input) if method == "add_cast" else (method, input, *rest)))


_ADD_LAYER = constants.add_layer


def _otherwise(name: str, what: str, owner: Any, attribute: str, other: Any) -> cases.Line:
    """A form in float16 whose network says the same by other layers."""
    with mock.patch.object(owner, attribute, other):
        return {**form(name, "float16"), "form": f"{name}, {what}"}


_BY_TANH = ("sigmoid by tanh", functional, "sigmoid", _sigmoid)
_BY_IDENTITY = ("casts by identities", constants, "add_layer", _layer)
_OTHERWISE = {
    f"float16 {name}, {how[0]}": partial(_otherwise, name, *how)
    for name, how in (
        ("mixture_softmax_shared", _BY_TANH),
        ("encoder, mean of tokens", _BY_IDENTITY),
        ("encoder, BERT with its pooler", _BY_IDENTITY),
        ("mixture_softmax_shared", _BY_IDENTITY),
    )
}


def _forms(dtype: str, names: tuple[str, ...] | list[str], given: dict[str, object]) -> list[str]:
    return [f"{dtype} {titled(name, given)}" for name in names]


ORDER = [
    *_FAULTS,
    *_forms("float32", SLOW[1:], QUICK),
    *_forms("bfloat16", ("gpt2", "llama_swiglu", "mixture_softmax_shared", "encoder, mean of tokens"), {}),
    *_forms("float16", [name for name in _FLOAT16 if name not in _SEEN_BEFORE], {}),
    *_forms("float16", SLOW, QUICK),
    *(
        f"{dtype} {form}: refitted"
        for form in ("gpt2", "encoder, mean of tokens", "hyper_dynamic", "mixture_softmax_shared")
        for dtype in ("float32", "float16")
    ),
    *("names", "not_refittable", "of_another_model", "from_engine"),
    *_forms("float16", _PREFERRED, PREFER),
    *_OTHERWISE,
    *(f"{dtype} {form}: defined" for dtype in ("float16", "float32") for form in ("gpt2", *ENCODERS)),
    *_forms("float32", ("geglu_tanh", "sigmoid", "hyper_static", "tanh_gate", "gemma2_sandwich"), {}),
    *_forms("float16", SLOW, {}),
    *_forms("float32", ("hyper_manifold", "few iterations"), {}),
]

_ALL = {**cases.of_scripts("refit", "definitions", "faults", "forms"), **_OTHERWISE}
_LAST = [name for name in _ALL if name not in ORDER]
CASES = {name: _ALL[name] for name in [*ORDER, *_LAST]}

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES, engines.start))
