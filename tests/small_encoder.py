"""A small Encoder's engine directory with a tokenizer of words, and what sentences are to come out as, in float64."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from encoder_formulas import VOCAB, formula, mean_pooled, small_config

from trtllm_ext.builder import BuildConfig, build_engine_dir
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.parallel import Mapping

WORDS = [f"w{number}" for number in range(VOCAB - 4)]
_UNKNOWN, _START, _END = 1, 2, 3


def make_encoder(
    folder: Path, *, tp_size: int = 1, max_batch_size: int = 4, max_input_len: int = 20, seed: int = 2
) -> Path:
    """Build FOLDER/engine of random weights, with its tokenizer; FOLDER/checkpoint holds the weights."""
    config = replace(small_config(), mapping=Mapping(world_size=tp_size, tp_size=tp_size))
    write_random_checkpoint(folder / "checkpoint", config, seed=seed)
    (folder / "checkpoint" / "tokenizer.json").write_text(json.dumps(word_tokenizer()))
    limits = BuildConfig(max_batch_size=max_batch_size, max_input_len=max_input_len)
    build_engine_dir(folder / "checkpoint", folder / "engine", limits)
    return folder / "engine"


def word_tokenizer() -> dict:
    """tokenizer.json of lower-case words between spaces, [CLS] before and [SEP] after them."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    special = {word: {"id": word, "ids": [vocabulary[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    around = [{"SpecialToken": {"id": word, "type_id": 0}} for word in ("[CLS]", "[SEP]")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [around[0], {"Sequence": {"id": "A", "type_id": 0}}, around[1]],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }


def ids_of(sentence: str, most: int) -> list[int]:
    """The tokens of a sentence as `word_tokenizer` has them, cut to `most`."""
    numbers = {word: number for number, word in enumerate(WORDS, 4)}
    words = [numbers.get(word, _UNKNOWN) for word in sentence.lower().split()]
    return [_START, *words[: most - 2], _END]


def expected_vectors(checkpoint: str | os.PathLike, sentences: list[str], most: int = 20) -> np.ndarray:
    """float64 [sentences, hidden]: each sentence by itself, without padding, from the papers' formulas."""
    weights = {name: value.astype(np.float64) for name, value in load_checkpoint(checkpoint).weights.items()}
    rows = []
    for sentence in sentences:
        ids = np.array([ids_of(sentence, most)], np.int32)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        rows.append(mean_pooled(formula(weights, inputs), inputs["attention_mask"])[0])
    return np.stack(rows)
