"""Say what an engine is: inputs and outputs, profiles, layers, the contract of its maths, its envelope.

Takes an engine directory, or a bare engine file. What can be said without loading the engine is said even when
it cannot be loaded here.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.terminal import human_bytes, table
from trtllm_ext.errors import EngineError

if TYPE_CHECKING:
    from trtllm_ext.runtime import EngineDir, Session

_FEW_LAYERS = 12


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("inspect", help="what an engine is, without running it")
    engine = parser.add_mutually_exclusive_group(required=True)
    engine.add_argument("engine", nargs="?", metavar="ENGINE", help="engine directory, or a bare engine file")
    engine.add_argument("--engine_dir", metavar="DIR", help="the same, as `run` and `embed` take it")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="N", help="whose engine to look at (default: 0)"
    )
    parser.add_argument("--layers", action="store_true", help="list every layer")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead, with every layer")
    return parser


def run(arguments: argparse.Namespace) -> int:
    report = describe(Path(arguments.engine or arguments.engine_dir), arguments.rank)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report, every_layer=arguments.layers)
    return 0


def describe(path: Path, rank: int = 0) -> dict[str, Any]:
    """Everything there is to say about an engine, as plain data.

    `problem` is set, and what only the loaded engine knows is missing, when it cannot be loaded here.
    """
    from trtllm_ext.runtime import EngineDir, Session

    if path.is_file():
        try:
            session = Session.to_look_at(path.read_bytes())
        except EngineError as problem:
            raise EngineError(f"{path}: {problem}") from problem
        with session:
            return {"engine": str(path), **_of_session(session)}
    directory = EngineDir.read(path, rank)
    report = {"engine": str(path), **_of_directory(directory)}
    try:
        directory.check_host()
        if directory.envelope.world_size > 1:  # which runs with its others only; this looks at it alone
            session = Session.to_look_at(directory.map_engine())
        else:
            session = Session.from_engine_dir(path, rank)
        with session:
            report.update(_of_session(session))
    except EngineError as problem:
        report["problem"] = str(problem)
    return report


def _of_directory(directory: "EngineDir") -> dict[str, Any]:
    envelope = directory.envelope.to_dict()
    pretrained = directory.config["pretrained_config"]
    return {
        "envelope": {key: value for key, value in envelope.items() if key not in ("inputs", "outputs")},
        "model": {key: value for key, value in pretrained.items() if key != "contract"},
        "contract": pretrained.get("contract"),
        "build_config": directory.config["build_config"],
        "taps": directory.config.get("taps", {}),
        **({"surgery": surgery} if (surgery := directory.config.get("surgery")) else {}),
        "fusion_level": directory.config.get("fusion_level"),
        "inputs": envelope["inputs"],
        "outputs": envelope["outputs"],
    }


def _of_session(session: "Session") -> dict[str, Any]:
    from trtllm_ext.runtime.dtypes import readable

    inputs = [
        {
            "name": info.name,
            "dtype": readable(info.dtype),
            "shape": info.shape,
            "profiles": session.profiles(info.name),
        }
        for info in session.inputs
    ]
    outputs = [
        {"name": info.name, "dtype": readable(info.dtype), "shape": info.shape} for info in session.outputs
    ]
    return {"inputs": inputs, "outputs": outputs, "layers": session.layers()}


def _print(report: dict[str, Any], *, every_layer: bool) -> None:
    from trtllm_ext.builder.taps import AGREEMENT

    print(report["engine"])
    if envelope := report.get("envelope"):
        print(
            f"{envelope['engine_kind']} engine (TensorRT API {envelope['engine_version']}) for "
            f"{envelope['compute_capability']}, rank {envelope['rank']} of {envelope['world_size']}, "
            f"{human_bytes(envelope['engine_bytes'])}, build {envelope['build_id'][:12]}, by {envelope['built_by']}"
        )
    for line in _what_it_asks(report):
        print(line)
    if model := report.get("model"):
        sizes = ", ".join(
            f"{key} {model[key]}"
            for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
            if key in model
        )
        source = f" from {model['source']}" if model.get("source") else ""
        print(f"{model.get('architecture')} {model.get('dtype')}{source}: {sizes}")
    if level := report.get("fusion_level"):
        print(f"fusion level {level}" + (f": {AGREEMENT[level]}" if report.get("taps") else ""))
    print()
    rows = [
        ["in", each["name"], each["dtype"], _dims(each["shape"]), _profiles(each)]
        for each in report["inputs"]
    ]
    rows += [["out", each["name"], each["dtype"], _dims(each["shape"]), ""] for each in report["outputs"]]
    table(["", "tensor", "type", "shape", "profiles: min .. opt .. max"], rows)
    if taps := report.get("taps"):
        print("\ntaps, by the last part of their names, without its number")
        counts = Counter((tap["point"], tap["meaning"]) for tap in taps.values())
        for (point, meaning), count in counts.items():
            print(f"  {point} ({count}): {meaning}")
    if surgery := report.get("surgery"):
        print(
            "\nsurgery: a run may change these values by the inputs of their names, and leave those inputs out"
        )
        counts = Counter((point["point"], point["meaning"]) for point in surgery.values())
        for (point, meaning), count in counts.items():
            print(f"  {point} ({count}): {meaning}")
    if report.get("contract"):
        print("\ncontract")
        for line in _formulas(report["contract"]):
            print(f"  {line}")
        for line in _tree(report["contract"], 1):
            print(line)
    print()
    if "problem" in report:
        print("Layers are not listed: the engine itself is not loaded.")
        return
    _print_layers(report["layers"], every_layer)


def _what_it_asks(report: dict[str, Any]) -> Iterator[str]:
    """Of the envelope what is not as usual: who else may run the engine, its plugins, and what it lacks to run."""
    from trtllm_ext.runtime.envelope import PluginSummary
    from trtllm_ext.runtime.host_check import filling

    envelope = report.get("envelope", {})
    kept = ["version-compatible"] if envelope.get("version_compatible") else []
    if (level := envelope.get("hardware_compatibility_level", "none")) != "none":
        kept.append(f"hardware compatibility level {level}")
    if kept:
        yield f"built {', '.join(kept)}"
    for plugin in envelope.get("plugins", ()):
        origin = (
            f" of {plugin['library']} (sha256 {plugin['library_sha256'][:12]}...)"
            if plugin["library"]
            else ""
        )
        yield f"needs the plugin {PluginSummary(**plugin)}{origin}"
    problem, weightless = report.get("problem", ""), "holds no weights"
    if envelope.get("is_stripped"):
        yield f"{weightless}: next {filling(report['engine'])}"
    if problem and not (envelope.get("is_stripped") and weightless in problem):
        yield f"The engine itself cannot be loaded here: {problem}"


def _formulas(contract: dict[str, Any]) -> list[str]:
    """The feed-forward sublayer in formulas; none for a contract of another version."""
    from trtllm_ext.checkpoint import Contract
    from trtllm_ext.checkpoint.describe import feed_forward_formula, mixture_text, norm_text, residual_formula
    from trtllm_ext.errors import ConfigError

    try:
        known = Contract.from_dict(contract)
    except ConfigError:
        return []
    form, mixture = known.feed_forward, mixture_text(known.feed_forward)
    return [
        f"F(x) = {feed_forward_formula(form)}" + (f", {mixture}" if mixture else ""),
        f"output = {residual_formula(form.residual, known)}; norm: {norm_text(form.residual.norm)}",
    ]


def _print_layers(layers: list[dict[str, Any]], every_layer: bool) -> None:
    kinds = Counter(_kind(layer) for layer in layers)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{len(layers)} layers: {listed}" if layers else "no layers are recorded in this engine")
    shown = layers if every_layer else layers[:_FEW_LAYERS]
    for layer in shown:
        print(f"  {layer.get('name')}")
    if len(shown) < len(layers):
        print(f"  ... {len(layers) - len(shown)} more (--layers lists them)")


def _kind(layer: dict[str, Any]) -> str:
    """The layer's type; without detailed verbosity its name ends in it, as in .../ELEMENTWISE_SUM_3."""
    named = re.search(r"(?:^|/)([A-Z][A-Z0-9_]*)_\d+$", str(layer.get("name")))
    return str(layer.get("type") or (named[1] if named else "unnamed kind"))


def _profiles(tensor: dict[str, Any]) -> str:
    return "; ".join(" .. ".join(_dims(dims) for dims in profile) for profile in tensor.get("profiles", ()))


def _dims(dims: Any) -> str:
    return "(" + ", ".join(map(str, dims)) + ")"


def _tree(value: Any, depth: int) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += ["  " * depth + str(key), *_tree(item, depth + 1)]
        else:
            lines.append("  " * depth + f"{key}: {json.dumps(item)}")
    return lines
