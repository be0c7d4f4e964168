"""Sentences to vectors with encoders that have no token types, or one."""

import json

import numpy as np
import pytest

from trtllm_ext.checkpoint import convert
from trtllm_ext.cli import main as cli
from trtllm_ext.runtime import Session

BUDGET_S = 6

torch = pytest.importorskip("torch", reason="torch is not installed")
hf = pytest.importorskip("transformers", reason="transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "one", "two", "three"]
SIZES = {"vocab_size": len(WORDS), "max_position_embeddings": 12}
MODELS = {
    "DistilBert": {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2, "pad_token_id": 1},
    "Roberta": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "type_vocab_size": 1,
    },
}
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def save_tokenizer(path):
    """Whole words; the last special token has the type 1, which neither model knows."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))


@pytest.fixture(params=MODELS)
def model_and_engine(request, tmp_path):
    """(transformers' model, the directory of its engine with mean pooling)."""
    torch.manual_seed(0)
    folder = tmp_path / "model"
    config = getattr(hf, f"{request.param}Config")(**SIZES, **MODELS[request.param], initializer_range=0.5)
    model = getattr(hf, f"{request.param}Model")(config).eval()
    model.save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    save_tokenizer(folder / "tokenizer.json")
    convert(folder, tmp_path / "checkpoint")
    paths = ["--checkpoint_dir", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "engine")]
    assert cli.main(["build", *paths, "--max_batch_size", "4", "--max_input_len", "8"]) == 0
    return model, tmp_path / "engine"


def test_vectors_are_those_of_transformers(model_and_engine, tmp_path):
    model, engine = model_and_engine
    sentences = {"one two three": [0, 4, 5, 6, 2], "two": [0, 5, 2], "three one": [0, 6, 4, 2]}
    (tmp_path / "sentences.txt").write_text("\n".join(sentences))
    files = ["--sentences", str(tmp_path / "sentences.txt"), "--output", str(tmp_path / "v.npz")]
    assert cli.main(["embed", "--engine_dir", str(engine), *files]) == 0
    got = np.load(tmp_path / "v.npz")["sentence_embedding"]
    with torch.no_grad():
        wanted = [
            model(torch.tensor([ids])).last_hidden_state.mean(1)[0].numpy() for ids in sentences.values()
        ]
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    with Session.from_engine_dir(engine) as session:
        names = {info.name for info in session.inputs}
    assert ("token_type_ids" in names) == isinstance(model, hf.RobertaModel)
