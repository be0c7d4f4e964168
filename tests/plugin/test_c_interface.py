"""The ctypes mirror of trtllm_ext_kernels.h against the header as a C compiler reads it."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trtllm_ext.checkpoint import ACTIVATIONS
from trtllm_ext.plugin import c_interface

BUDGET_S = 3

HEADER = Path(__file__).parents[2] / "plugins/kernels/trtllm_ext_kernels.h"
STRUCTURES = {
    "residual_norm_args": c_interface.ResidualNormArgs,
    "gated_activation_args": c_interface.GatedActivationArgs,
    "feed_forward_form": c_interface.FeedForwardFormStruct,
    "feed_forward_args": c_interface.FeedForwardArgs,
}
ENUMERATIONS = {
    "status": c_interface.Status,
    "type": c_interface.Type,
    "activation": c_interface.Activation,
    "norm": c_interface.Norm,
    "rounding": c_interface.Rounding,
}
# What ctypes calls a C type, by its size and kind, as _Generic tells them apart.
KINDS = {
    ctypes.c_uint32: "u4",
    ctypes.c_int32: "i4",
    ctypes.c_float: "f4",
    ctypes.c_int64: "i8",
    ctypes.c_uint64: "u8",
    ctypes.c_void_p: "pointer",
}
PROBE = """
#include <stdio.h>
#include "trtllm_ext_kernels.h"
#define KIND(v) _Generic((v), uint32_t: "u4", int32_t: "i4", float: "f4", int64_t: "i8", uint64_t: "u8", \\
    default: "pointer")
#define FIELD(s, f) { trtllm_ext_##s v; printf("%s.%s %zu %s\\n", #s, #f, offsetof(trtllm_ext_##s, f), KIND(v.f)); }
#define SIZE(s) printf("%s %zu\\n", #s, sizeof(trtllm_ext_##s));
#define NUMBER(n) printf("%s %d\\n", #n, (int) TRTLLM_EXT_##n);
int main(void)
{
BODY
    return 0;
}
"""


def declared(name: str) -> list[str]:
    """The fields of a structure, or the members of an enumeration, in the header's order."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    kind, body = re.search(rf"typedef (struct|enum) trtllm_ext_{name}\s*\{{(.*?)\}}", text, re.S).groups()
    if kind == "struct":
        return re.findall(r"(\w+);", body)
    return re.findall(r"TRTLLM_EXT_(\w+) = \d+", body)


@pytest.fixture(scope="module")
def told_by_c(tmp_path_factory) -> dict[str, list[str]]:
    """What a C compiler makes of the header: {'residual_norm_args.x': ['48', 'pointer'], ...}."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler to read the header with")
    lines = [f"    SIZE({name})" for name in STRUCTURES]
    lines += [f"    FIELD({name}, {field})" for name in STRUCTURES for field in declared(name)]
    lines += [f"    NUMBER({each})" for name in ENUMERATIONS for each in declared(name)] + [
        "    NUMBER(KERNELS_ABI)"
    ]
    folder = tmp_path_factory.mktemp("probe")
    source = folder / "probe.c"
    source.write_text(PROBE.replace("BODY", "\n".join(lines)))
    command = [compiler, "-std=c11", "-Wall", "-Werror", f"-I{HEADER.parent}", source, "-o", folder / "probe"]
    subprocess.run(command, check=True)
    out = subprocess.run([folder / "probe"], check=True, capture_output=True, text=True).stdout
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_lie_in_memory_as_in_c(told_by_c, name):
    structure = STRUCTURES[name]
    mirrored = {
        f"{name}.{field}": [str(getattr(structure, field).offset), KINDS[kind]]
        for field, kind in structure._fields_
    }
    in_c = {key: told for key, told in told_by_c.items() if key.startswith(f"{name}.")}
    assert mirrored == in_c
    assert told_by_c[name] == [str(ctypes.sizeof(structure))]


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_enumerations_have_the_numbers_of_c(told_by_c, name):
    members = {each.name: [str(each.value)] for each in ENUMERATIONS[name]}
    assert members == {member: told_by_c[member] for member in declared(name)}


def test_version_of_the_interface(told_by_c):
    assert told_by_c["KERNELS_ABI"] == [str(c_interface.KERNELS_ABI)]


def test_every_function_of_the_header_is_declared():
    exported = re.findall(r"TRTLLM_EXT_API [\w \*]*?\*?\s*trtllm_ext_(\w+)\(", HEADER.read_text())
    assert sorted(exported) == sorted(c_interface.FUNCTIONS)


def test_activations_are_those_of_the_contract():
    assert {each.name.lower() for each in c_interface.Activation} == set(ACTIVATIONS)
