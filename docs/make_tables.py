"""Writes docs/forms.md, docs/architectures.md and tables of other pages from the code.

`tests/test_docs.py` finds them out of date.

python docs/make_tables.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Iterable
from pathlib import Path

from trtllm_ext.builder import BuildConfig
from trtllm_ext.builder.build_config import SETTINGS
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
from trtllm_ext.cli import build
from trtllm_ext.cli.main import make_parser
from trtllm_ext.cli.support import columns, features
from trtllm_ext.cli.trtllm_build_flags import PLUGINS, SWITCHES, VALUES
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import MODELS
from trtllm_ext.plugin.operation import NAMESPACE, Operand, Operation
from trtllm_ext.plugin.operations import OPERATIONS

DOCS = Path(__file__).parent
WRITTEN = "<!-- Written by docs/make_tables.py from the code. -->\n"
ENDS = "<!-- End of what docs/make_tables.py writes. -->\n"

# trtllm-build's flags, releases 0.16 to 1.2, each with a value that asks for something; None: a bare flag.
PLUGIN_FLAGS = """
bert_attention gpt_attention gemm gemm_swiglu fp8_rowwise_gemm lora moe mamba_conv1d nccl low_latency_gemm
low_latency_gemm_swiglu gemm_allreduce
""".split()  # noqa: SIM905 - a table is read by the line
SWITCH_FLAGS = """
context_fmha bert_context_fmha_fp32_acc remove_input_padding use_paged_context_fmha use_fp8_context_fmha
multiple_profiles paged_state streamingllm reduce_fusion user_buffer use_fused_mlp pp_reduce_scatter dora_plugin
fuse_fp4_quant norm_quant_fusion
""".split()  # noqa: SIM905 - a table is read by the line
FLAGS: dict[str, str | None] = {
    "checkpoint_dir": "DIR", "model_config": "config.json", "build_config": "FILE", "model_cls_file": "model.py",
    "model_cls_name": "Model", "output_dir": "DIR", "max_batch_size": "8", "max_input_len": "512",
    "max_seq_len": "2048", "max_decoder_seq_len": "2048", "max_beam_width": "4", "max_num_tokens": "4096",
    "opt_num_tokens": "512", "max_encoder_input_len": "2048", "max_prompt_embedding_table_size": "8",
    "max_multimodal_len": "8", "kv_cache_type": "paged", "paged_kv_cache": "enable", "input_timing_cache": "FILE",
    "output_timing_cache": "FILE", "profiling_verbosity": "detailed", "strip_plan": None, "weight_sparsity": None,
    "weight_streaming": None, "fast_build": None, "workers": "2", "log_level": "verbose",
    "enable_debug_output": None, "visualize_network": "DIR", "dry_run": None, "monitor_memory": None,
    "logits_dtype": "float16", "gather_context_logits": None, "gather_generation_logits": None,
    "gather_all_token_logits": None, "lora_dir": "DIR", "lora_ckpt_source": "nemo",
    "lora_target_modules": "attn_q", "max_lora_rank": "8", "speculative_decoding_mode": "medusa",
    "max_draft_len": "4", "auto_parallel": "2", "gpus_per_node": "4", "cluster_key": "H100",
    **{f"{name}_plugin": "float16" for name in PLUGIN_FLAGS}, **dict.fromkeys(SWITCH_FLAGS, "enable"),
    "tokens_per_block": "64",
}  # fmt: skip
# Keys of a build config in JSON that no flag sets, the last two of 0.16 alone.
KEYS = {
    "opt_batch_size": 4,
    "strongly_typed": False,
    "force_num_profiles": 2,
    "use_refit": True,
    "lora_config": {"lora_dir": ["DIR"]},
    "use_mrope": True,
    "use_fused_mlp": True,
    "auto_parallel_config": {"world_size": 2},
}


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
        "name. [architectures.md](architectures.md) says which models have which form.\n",
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
        "`trtllm_ext.checkpoint.FORMS`: every field of the contract (the exact maths of a sublayer, as data: "
        "`FeedForwardContract`) in use, and the forms of known models. Each is "
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
        "A row is the contract (the exact maths of a sublayer, as data) read from a usual config of the architecture; "
        "each checkpoint's own config decides. "
        "Every row is tested against the layers of `transformers`, in float32 and bfloat16. The words are those of "
        "[forms.md](forms.md); how a model is taken to an engine is in [your_own_model.md](your_own_model.md).\n",
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
    rows = (
        (feature, *(cell_link(cell.word, cell.test) for cell in cells.values()))
        for feature, cells in features().items()
    )
    return with_table("compatibility", table(("", *columns().values()), rows))


def plugins() -> str:
    """The page with its table of operations as their records have it."""
    rows = (
        (
            f"`{each.name}`",
            f"`{each.plugin}`",
            code(each.doc),
            operands(each.inputs),
            operands(each.outputs),
            fields(each),
        )
        for each in OPERATIONS.values()
    )
    heads = (
        "operation",
        "plugin",
        "what it computes",
        "inputs",
        "outputs",
        "fields beside `type` and those of inputs",
    )
    (types,) = {each.types for each in OPERATIONS.values()}
    told = f"Version {versions()}, namespace `{NAMESPACE}`; {', '.join(types)}. In brackets: what need not be there."
    return with_table("plugins", f"{table(heads, rows)}\n{told}\n")


def versions() -> str:
    return ", ".join(sorted({each.version for each in OPERATIONS.values()}))


def code(doc: str) -> str:
    """A formula as it stands in a cell: bars would end it."""
    return doc.replace("|", "\\|")


def operands(ports: Iterable[Operand]) -> str:
    return ", ".join(
        f"{f'[{each.name}]' if each.when else each.name} ({', '.join(each.shape)})" for each in ports
    )


def fields(operation: Operation) -> str:
    """Those that a caller chooses: which inputs there are follows from what is given."""
    presence = {each.when for each in operation.inputs}
    return "; ".join(
        f"`{each.name}`: {code(each.doc)}"
        for each in operation.fields
        if each.name != "type" and each.name not in presence
    )


def migration() -> str:
    """The page with its tables of flags and keys as the code takes them; the rest of the page stays as it is."""
    answers = {f"`--{name}`": answer_to_flag(name, value) for name, value in FLAGS.items()}
    answers |= {f"`{name}` (JSON only)": answer_to_key(name, value) for name, value in KEYS.items()}
    together: dict[str, list[str]] = {}
    for name, answer in answers.items():
        together.setdefault(answer, []).append(name)
    order = ("taken", "without effect", "refused")
    rows = sorted(
        ((", ".join(names), answer) for answer, names in together.items()),
        key=lambda row: [row[1].startswith(word) for word in order].index(True),
    )
    return with_table("migration", table(("flag", "here"), rows))


def answer_to_flag(name: str, value: str | None) -> str:
    """What `trtllm-ext build` says to a flag of trtllm-build with a value that asks for something."""
    parser = make_parser()
    (commands,) = parser._subparsers._group_actions
    command = [f"--{name}", *([] if value is None else [value])]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            arguments = parser.parse_args(
                ["build", *([] if name == "checkpoint_dir" else ["--checkpoint_dir", "C"]), *command]
            )
    except SystemExit:
        return "refused as unknown"
    try:
        if name != "build_config":
            build._config_of(arguments)
    except ConfigError as problem:
        return refused(problem)
    return taken(commands.choices["build"], name)


def taken(parser: argparse.ArgumentParser, name: str) -> str:
    (action,) = (each for each in parser._actions if f"--{name}" in each.option_strings)
    if action.help != argparse.SUPPRESS:
        return f"taken: {action.help}{whose(name)}".replace("%%", "%")
    if name in PLUGINS:
        return "without effect: it says how TensorRT-LLM lays out its own decoders"
    setting = {**VALUES, **SWITCHES}[name]
    return f"taken: `{setting}` of BuildConfig{whose(setting)}"


def whose(name: str) -> str:
    """Of a limit, the models that have a use for it."""
    asked = "max_input_len" if name == "max_seq_len" else name  # which it bounds
    users = ", ".join(f"`{model}`" for model, kind in MODELS.items() if asked in kind.limits)
    return f"; a limit of {users}" if users else ""


def answer_to_key(name: str, value: object) -> str:
    try:
        BuildConfig.from_dict({name: value})
    except ConfigError as problem:
        return refused(problem)
    return f"taken{whose(name)}" if name in SETTINGS else "without effect"


def refused(problem: ConfigError) -> str:
    """The reason of a refusal, without the value and the advice to leave it out."""
    text = re.sub(r"^(\w+: )?\w+=('[^']*'|{.*?}|\S+) |^--\w+( \S+)? is refused: ", "", str(problem))
    text = re.sub(r" \(its default is .*?\)", "", text).removeprefix("is ")
    text = re.sub(r"(; use null, or leave it out|; leave it out|\. Leave it out)?\.?$", "", text)
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)
    return "refused as unknown" if text.startswith("unknown build config key") else f"refused: {text}"


def with_table(page: str, text: str) -> str:
    """A page of docs with `text` in place of what stands between its two marks."""
    before, rest = (DOCS / f"{page}.md").read_text().split(WRITTEN)
    return before + WRITTEN + "\n" + text + "\n" + ENDS + rest.split(ENDS)[1]


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
    (DOCS / "migration.md").write_text(migration())
    (DOCS / "plugins.md").write_text(plugins())


if __name__ == "__main__":
    main()
