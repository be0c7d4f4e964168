"""The C++ field tables are those of the records."""

from trtllm_ext.plugin import write_operations
from trtllm_ext.plugin.operations import OPERATIONS

BUDGET_S = 2


def test_the_header_in_the_tree_is_current():
    assert write_operations.main(["--check"]) == 0, "run python -m trtllm_ext.plugin.write_operations"


def test_a_file_that_is_out_of_date_is_found_and_written_again(tmp_path):
    path = tmp_path / "operations.h"
    assert write_operations.main(["--check", "--output", str(path)]) == 1
    assert write_operations.main(["--output", str(path)]) == 0
    assert write_operations.main(["--check", "--output", str(path)]) == 0
    path.write_text(path.read_text().replace('"eps"', '"epsilon"'))
    assert write_operations.main(["--check", "--output", str(path)]) == 1


def test_every_field_stands_in_it_in_order():
    text = write_operations.header()
    for operation in OPERATIONS.values():
        table = text.partition(f"{operation.name.upper()}_FIELDS[] = {{")[2].partition("};\n")[0]
        rows = [line.split('"')[1] for line in table.splitlines() if line.startswith("    {")]
        assert rows == [field.name for field in operation.fields]
