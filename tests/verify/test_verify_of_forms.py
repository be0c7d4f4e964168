"""`verify_engine` passes right engines of every form, in all types, by every reference."""

import pytest
from sampling import thinned
from stack_forms import LAYER, TABLE, checkpoint, config_of, plain, residual
from verified_models import ALL, engine_of

from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.verify import verify_engine

BUDGET_S = 5

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = ("float32", "float16", "bfloat16")
# Those of which every layer is long.
LONG = {name for name, form in TABLE.items() if form.mixture or form.residual.hyper_connections}
CASES = {
    f"{name} {DTYPES[i % 3]}": config_of(
        form,
        DTYPES[i % 3],
        layers=1 + (i % 5 == 0 and name not in LONG),
        final_norm=LAYER if i % 4 else None,
    )
    for i, (name, form) in enumerate(TABLE.items())
}
CASES |= {
    f"beside attention, {kind}": config_of(plain(residual=residual(parallel=kind)), attention_input=True)
    for kind in ("none", "shared_norm", "separate_norms")
}


# Four and the three types have no common factor: the types take turns.
@pytest.mark.parametrize("name", thinned(CASES))
def test_right_engines_of_every_form(tmp_path, name):
    checkpoint(tmp_path / "c", CASES[name])
    found = load_checkpoint(tmp_path / "c")
    engine = engine_of(found, ALL, max_num_tokens=32)
    report = verify_engine(engine, found)
    assert report.is_right, report.verdict
    # Every output of the engine has a row with every reference.
    assert {row.tensor for row in report.rows} == {each.name for each in engine.outputs}
    for row in report.rows:
        errors = (row.oracle, row.formulas, row.oracle_alone, row.formulas_alone)
        assert all(error <= row.tolerance for error in errors), row
