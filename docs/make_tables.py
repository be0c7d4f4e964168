"""Writes docs/forms.md, docs/architectures.md and the table of docs/compatibility.md from the code.

`tests/test_docs.py` finds them out of date.

python docs/make_tables.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trtllm_ext.checkpoint import ACTIVATIONS, FORMS, GATES, PLACEMENTS, FeedForwardContract
from trtllm_ext.checkpoint.convert.activation_names import ACTIVATION_NAMES
from trtllm_ext.checkpoint.convert.architectures import STACK_ARCHITECTURES, StackArchitecture
from trtllm_ext.checkpoint.convert.encoders import ENCODER_ARCHITECTURES, EncoderArchitecture
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.describe import (
    bias_text,
    feed_forward_formula,
    mixture_text,
    norm_text,
    residual_formula,
)
from trtllm_ext.cli.support import columns, features

DOCS = Path(__file__).parent
WRITTEN = "<!-- Written by docs/make_tables.py from the code. -->\n"
SUPPORT_BEGINS = "<!-- Written by docs/make_tables.py from trtllm_ext/cli/support.json. -->\n"
SUPPORT_ENDS = "<!-- End of what it writes. -->\n"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def forms() -> str:
    """The vocabulary: activations, placements, gates, and the named forms."""
    called = {
        name: ", ".join(f"`{theirs}`" for theirs, ours in ACTIVATION_NAMES.items() if ours == name)
        for name in ACTIVATIONS
    }
    parts = [
        "# Forms of sublayers\n",
        WRITTEN,
        "One word for one formula, in layers, checkpoints, converters and tests. What is not here is refused by "
        "name.\n",
        "## Activations\n",
        table(
            ("name", "formula", "Hugging Face's names"),
            ((f"`{name}`", f"`{formula}`", called[name]) for name, formula in ACTIVATIONS.items()),
        ),
        "Plain `gelu` is missing on purpose: it is the erf form to Hugging Face and the tanh form to TensorRT-LLM.\n",
        "## Where the norm stands\n",
        "x is the residual stream, F the sublayer.\n",
        table(("placement", "output"), ((f"`{name}`", f"`{text}`") for name, text in PLACEMENTS.items())),
        "## What joins the stream\n",
        table(("gate", "joins"), ((f"`{name}`", f"`{text}`") for name, text in GATES.items())),
        "## Named forms\n",
        "`trtllm_ext.checkpoint.FORMS`: every field of the contract in use, and the forms of known models. Each is "
        "tested against its formula in float64, in float32, float16 and bfloat16.\n",
        table(
            ("form", "feed-forward F(x)", "biases", "norm", "output", "experts"),
            ((f"`{name}`", *form_cells(form)) for name, form in FORMS.items()),
        ),
    ]
    return "\n".join(parts)


def architectures() -> str:
    """What `trtllm-ext convert` reads."""
    parts = [
        "# Architectures that `trtllm-ext convert` reads\n",
        WRITTEN,
        "A row is the contract read from a usual config of the architecture; each checkpoint's own config decides. "
        "Every row is tested against the layers of `transformers`, in float32 and bfloat16.\n",
        "## Stacks\n",
        "Of these the feed-forward sublayer of each layer is taken, with its norms, as a `SublayerStack`.\n",
        table(
            ("architecture", "feed-forward F(x)", "biases", "norm", "output", "experts", "particular"),
            sorted(architecture_row(spec) for spec in STACK_ARCHITECTURES),
        ),
        "## Encoders\n",
        "These are taken whole, as an `Encoder`: embeddings, attention and feed-forward with biases and LayerNorm "
        "after each sum, and pooling as the model's folder says.\n",
        table(
            ("architecture", "feed-forward F(x)", "output", "positions", "token types", "pooler", "classes"),
            sorted(encoder_row(spec) for spec in ENCODER_ARCHITECTURES),
        ),
    ]
    return "\n".join(parts)


def compatibility() -> str:
    """The page with its table of support as support.json has it; the rest of the page stays as it is."""
    before, rest = (DOCS / "compatibility.md").read_text().split(SUPPORT_BEGINS)
    _, behind = rest.split(SUPPORT_ENDS)
    rows = (
        (feature, *(cell_link(cell.word, cell.test) for cell in cells.values()))
        for feature, cells in features().items()
    )
    return (
        before + SUPPORT_BEGINS + "\n" + table(("", *columns().values()), rows) + "\n" + SUPPORT_ENDS + behind
    )


def cell_link(word: str, test: str) -> str:
    return f"[{word}](../{test.partition('::')[0]})" if test else word


def architecture_row(spec: StackArchitecture) -> tuple[str, ...]:
    config = HfConfig(Path(spec.model_type) / "config.json", spec.example)
    form = spec.read(config, range(config.size(spec.depth)))
    name = f"{spec.model_type}, {spec.stack}" if spec.stack else spec.model_type
    return (f"`{name}`", *form_cells(form.feed_forward), spec.note)


def encoder_row(spec: EncoderArchitecture) -> tuple[str, ...]:
    form = spec.read(HfConfig(Path(spec.model_type) / "config.json", spec.example))
    first = form.position_offset
    return (
        f"`{spec.model_type}`",
        f"`proj({form.activation}(fc(x)))`",
        f"`{PLACEMENTS['post']}`",
        f"from the table's row {first} on" if first else "the table's rows",
        str(form.type_vocab_size or "none"),
        "where stored" if spec.names.has_pooler else "none",
        ", ".join(f"`{name}`" for name in spec.class_names()),
    )


def form_cells(form: FeedForwardContract) -> tuple[str, ...]:
    return (
        f"`{feed_forward_formula(form)}`",
        bias_text(form),
        norm_text(form.residual.norm),
        f"`{residual_formula(form.residual)}`",
        mixture_text(form),
    )


def main() -> None:
    (DOCS / "forms.md").write_text(forms())
    (DOCS / "architectures.md").write_text(architectures())
    (DOCS / "compatibility.md").write_text(compatibility())


if __name__ == "__main__":
    main()
