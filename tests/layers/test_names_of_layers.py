"""Names of TensorRT-LLM's layers that are not here say what is."""

import pytest

from trtllm_ext import layers

BUDGET_S = 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("MLP", "FeedForward"),
        ("GatedMLP", "GatedFeedForward"),
        ("FusedGatedMLP", "GatedFeedForward"),
        ("MOE", "MixtureOfExperts"),
        ("SharedMoE", "MixtureOfExperts"),
        ("Attention", "SelfAttention"),
        ("BertAttention", "SelfAttention"),
    ],
)
def test_an_import_by_the_name_there_names_ours(theirs, ours):
    with pytest.raises(ImportError, match=rf"has no {theirs}, which is TensorRT-LLM's. Use {ours}[;,]"):
        exec(f"from trtllm_ext.layers import {theirs}")
    assert ours in layers.__all__


def test_other_names_are_plainly_absent():
    assert not hasattr(layers, "Perceptron")
