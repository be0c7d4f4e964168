"""A tiny BERT folder on disk."""

import json

import pytest
from bert_source import CONFIG, MODULES, POOLING, bert_weights
from safetensors.numpy import save_file


@pytest.fixture
def bert_folder(tmp_path):
    """make(config changes, weights, pooling changes or None, modules) -> the folder."""

    def make(config=None, weights=None, pooling=None, modules=MODULES):
        folder = tmp_path / "model"
        (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
        save_file(bert_weights() if weights is None else weights, folder / "model.safetensors")
        if modules is not None:
            (folder / "modules.json").write_text(json.dumps(modules))
            (folder / "1_Pooling" / "config.json").write_text(json.dumps({**POOLING, **(pooling or {})}))
        return folder

    return make
