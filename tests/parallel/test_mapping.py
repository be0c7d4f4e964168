"""Mapping: TensorRT-LLM's rank arithmetic and its checks."""

from __future__ import annotations

import pytest

from trtllm_ext.errors import ConfigError
from trtllm_ext.parallel import Mapping

BUDGET_S = 5


def test_tensor_parallel_is_fastest_then_context_then_pipeline() -> None:
    places = {}
    for rank in range(12):
        m = Mapping(world_size=12, rank=rank, tp_size=2, cp_size=2, pp_size=3)
        places[(m.pp_rank, m.cp_rank, m.tp_rank)] = rank
        assert rank == (m.pp_rank * 2 + m.cp_rank) * 2 + m.tp_rank
        assert rank in m.tp_group
        assert rank in m.cp_group
        assert rank in m.pp_group
    assert len(places) == 12


def test_groups() -> None:
    m = Mapping(world_size=8, rank=5, tp_size=2, cp_size=2, pp_size=2)
    assert (m.tp_rank, m.cp_rank, m.pp_rank) == (1, 0, 1)
    assert m.tp_group == [4, 5]
    assert m.cp_group == [5, 7]
    assert m.pp_group == [1, 5]
    assert m.prev_pp_rank() == 1
    assert m.next_pp_rank() == 1
    assert m.is_last_pp_rank()
    assert not m.is_first_pp_rank()


def test_nodes_and_local_ranks() -> None:
    m = Mapping(world_size=8, rank=6, tp_size=8, gpus_per_node=4)
    assert (m.node_rank, m.local_rank) == (1, 2)
    assert m.has_tp()
    assert not m.has_pp()


def test_pipeline_layers_cover_all_and_the_first_stages_take_the_rest() -> None:
    stages = [Mapping(world_size=3, rank=r, pp_size=3).pp_layers(8) for r in range(3)]
    assert stages == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("given", "derived"), [((-1, -1), (4, 1)), ((-1, 4), (1, 4)), ((2, -1), (2, 2)), ((2, 2), (2, 2))]
)
def test_mixture_sizes_are_derived(given: tuple[int, int], derived: tuple[int, int]) -> None:
    m = Mapping(world_size=4, tp_size=4, moe_tp_size=given[0], moe_ep_size=given[1])
    assert (m.moe_tp_size, m.moe_ep_size) == derived


def test_experts() -> None:
    m = Mapping(world_size=4, rank=3, tp_size=4, moe_ep_size=2)
    assert (m.moe_tp_rank, m.moe_ep_rank) == (1, 1)
    assert m.ep_experts(8) == [4, 5, 6, 7]
    with pytest.raises(ConfigError, match="7 experts do not split over moe_ep_size=2"):
        m.ep_experts(7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"world_size": 4, "tp_size": 2},
            r"world_size=4 is not tp_size \* cp_size \* pp_size = 2 \* 1 \* 1 = 2",
        ),
        ({"world_size": 2, "tp_size": 2, "rank": 2}, r"rank=2 is outside 0\.\.1"),
        ({"tp_size": 0, "world_size": 0}, "world_size=0 must be at least 1"),
        ({"tp_size": 1.0}, "tp_size=1.0 is not an integer"),
        ({"world_size": True}, "world_size=True is not an integer"),
        ({"world_size": 4, "tp_size": 4, "moe_ep_size": 3}, "moe_ep_size=3 does not divide tp_size=4"),
        ({"world_size": 4, "tp_size": 4, "moe_ep_size": 4, "moe_tp_size": 4}, r"4 \* 4 is not tp_size=4"),
    ],
)
def test_bad_mappings_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mapping(**fields)


def test_json_round_trip() -> None:
    m = Mapping(world_size=4, rank=1, tp_size=2, pp_size=2)
    assert Mapping.from_dict(m.to_dict()) == m
    with pytest.raises(ConfigError, match=r"Unknown mapping field.*tp_sizes"):
        Mapping.from_dict({"tp_sizes": 2})


def test_groups_of_a_mixture() -> None:
    m = Mapping(world_size=16, rank=13, tp_size=8, pp_size=2, moe_tp_size=2, moe_ep_size=4)
    assert (m.moe_tp_rank, m.moe_ep_rank) == (1, 1)
    assert m.moe_tp_group == [9, 13]
    assert m.moe_ep_group == [12, 13, 14, 15]
    assert m.moe_tp_groups == [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13], [10, 14], [11, 15]]
    assert m.moe_ep_groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert m.has_moe_tp()
    assert m.has_moe_ep()


def test_all_groups_and_neighbours_of_context_parallelism() -> None:
    m = Mapping(world_size=8, rank=5, tp_size=2, cp_size=2, pp_size=2, gpus_per_node=4)
    assert m.tp_groups == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert m.cp_groups == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert m.pp_groups == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert (m.prev_cp_rank(), m.next_cp_rank()) == (7, 7)
    assert m.is_first_cp_rank()
    assert not m.is_last_cp_rank()
    assert m.has_cp()
    assert m.is_multi_node()
    assert (m.get_node_rank(7), m.get_local_rank(7)) == (1, 3)


def test_a_partition_of_the_stages() -> None:
    stages = [Mapping(world_size=3, rank=r, pp_size=3, pp_partition=(1, 4, 3)) for r in range(3)]
    assert [m.pp_layers(8) for m in stages] == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert Mapping.from_dict(stages[1].to_dict()) == stages[1]
    assert "pp_partition" not in Mapping().to_dict()
    with pytest.raises(ConfigError, match=r"pp_partition=\[1, 4, 3\] holds 8 layers, not 9"):
        stages[0].pp_layers(9)


@pytest.mark.parametrize("partition", [(1, 2), (1, 2, -1), (1, 2, 3.0)])
def test_partitions_that_do_not_fit_are_refused(partition: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"is not a number of layers for each of pp_size=3"):
        Mapping(world_size=3, pp_size=3, pp_partition=partition)


def test_spread_experts_and_context_parallelism_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="moe_ep_size=2 and cp_size=2"):
        Mapping(world_size=4, tp_size=2, cp_size=2, moe_ep_size=2)
