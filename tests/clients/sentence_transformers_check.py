"""all-MiniLM-L6-v2 through the server and through sentence-transformers: the same vectors.

Run by scripts/test-clients with sentence-transformers' environment, as
`sentence_transformers_check.py URL`, with a server of that model.
"""

import sys

import httpx2
import numpy as np
from sentence_transformers import SentenceTransformer

from inferplane.catalogue import resolve_model

NAME = "all-minilm-l6-v2"
LIMIT = 1e-3
TEXTS = [
    "What is the capital of France?",
    "Paris is the capital of France.",
    "One small core, any accelerator. " * 20,
    "naïve 北京 🎉",
    "a [SEP] b",
]


def main(url: str) -> None:
    """Prints the largest difference of a component."""
    with httpx2.Client(timeout=120.0) as http:
        answer = http.post(f"{url}/v1/embeddings", json={"model": NAME, "input": TEXTS})
        made = answer.raise_for_status().json()
    ours = np.array([one["embedding"] for one in made["data"]])
    theirs = SentenceTransformer(str(resolve_model(NAME)), device="cpu").encode(TEXTS)
    most = np.abs(ours - theirs).max()
    print(f"{len(TEXTS)} vectors of {ours.shape[1]}, largest difference {most:.1e}")
    assert most <= LIMIT


if __name__ == "__main__":
    main(sys.argv[1])
