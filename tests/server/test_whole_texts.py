"""POST /score, /rerank and /classify, over the null device, whose scores depend on all ids."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from inferplane.testing.tiny import write_tiny_model

QUERY = "what runs next"
TEXTS = ["the core plans", "a plugin decides", "one step at a time"]
KIND = {"architectures": ["LlamaForSequenceClassification"]}


@pytest.fixture(scope="module")
def client_of(start: Callable, tmp_path_factory) -> Callable[..., httpx2.Client]:
    """A client of a server whose model's config.json says this."""

    def begin(**config) -> httpx2.Client:
        folder: Path = tmp_path_factory.mktemp("whole") / "model"
        write_tiny_model(folder, overrides=KIND | config)
        return start(folder=folder).client()

    return begin


@pytest.fixture(scope="module")
def cross(client_of) -> Iterator[httpx2.Client]:
    with client_of(id2label={"0": "relevance"}) as client:
        yield client


@pytest.fixture(scope="module")
def classifier(client_of) -> Iterator[httpx2.Client]:
    with client_of(id2label={str(i): f"class {i}" for i in range(16)}) as client:
        yield client


def scores(client, one, two, path="/score"):
    told = client.post(path, json={"text_1": one, "text_2": two})
    assert told.status_code == 200, told.text
    return [entry["score"] for entry in told.json()["data"]]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_one_to_many_is_each_pair_alone(cross, path):
    each = [scores(cross, QUERY, text, path)[0] for text in TEXTS]
    assert scores(cross, QUERY, TEXTS, path) == scores(cross, [QUERY], TEXTS, path) == each
    assert all(0 < score < 1 for score in each) and len(set(each)) == 3


def test_as_many_as_many_go_pair_by_pair(cross):
    found = scores(cross, TEXTS, TEXTS[::-1])
    pairs = zip(TEXTS, TEXTS[::-1], strict=True)
    assert found == [scores(cross, one, two)[0] for one, two in pairs]


@pytest.mark.parametrize("one, two", [(TEXTS, QUERY), (TEXTS[:2], TEXTS)])
def test_other_shapes_are_refused(cross, one, two):
    told = cross.post("/score", json={"text_1": one, "text_2": two})
    assert (told.status_code, told.json()["error"]["param"]) == (400, "text_1")


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_come_best_first(cross, path):
    told = cross.post(path, json={"query": QUERY, "documents": TEXTS}).json()
    found = scores(cross, QUERY, TEXTS)
    order = sorted(range(3), key=lambda i: -found[i])
    assert [result["index"] for result in told["results"]] == order
    assert [result["relevance_score"] for result in told["results"]] == sorted(found)[::-1]
    assert [result["document"]["text"] for result in told["results"]] == [TEXTS[i] for i in order]
    assert told["usage"]["total_tokens"] > 0 and told["id"].startswith("rerank-")


def test_a_document_may_be_an_object_and_need_not_come_back(cross):
    documents = [{"text": text} for text in TEXTS]
    body = {"query": QUERY, "documents": documents, "top_n": 2, "return_documents": False}
    told = cross.post("/rerank", json=body).json()
    assert [set(result) for result in told["results"]] == [{"index", "relevance_score"}] * 2


def test_a_document_is_cut_to_the_tokens_asked_for(cross):
    ids = cross.post("/tokenize", json={"prompt": TEXTS[2]}).json()["tokens"]
    head = cross.post("/detokenize", json={"tokens": ids[:4]}).json()["prompt"]
    body = {"query": QUERY, "documents": [TEXTS[2]], "max_tokens_per_doc": 4}
    told = cross.post("/rerank", json=body)
    assert told.json()["results"][0]["relevance_score"] == scores(cross, QUERY, head)[0]
    assert "prompt_truncated" in told.headers["x-inferplane-warnings"]


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_classes_have_probabilities_that_sum_to_one(classifier, path):
    told = classifier.post(path, json={"input": TEXTS}).json()
    for index, entry in enumerate(told["data"]):
        assert entry["index"] == index and entry["num_classes"] == len(entry["probs"]) == 16
        assert sum(entry["probs"]) == pytest.approx(1)
        assert entry["label"] == f"class {entry['probs'].index(max(entry['probs']))}"


def test_pooling_gives_the_scores_behind_the_classes(classifier):
    told = classifier.post("/pooling", json={"input": "a", "task": "classify"}).json()
    (row,) = [entry["data"] for entry in told["data"]]
    probs = classifier.post("/classify", json={"input": "a"}).json()["data"][0]["probs"]
    assert sorted(range(16), key=row.__getitem__) == sorted(range(16), key=probs.__getitem__)


@pytest.mark.parametrize(
    "path, body",
    [
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/embeddings", {"input": "a"}),
        ("/pooling", {"input": "a", "task": "embed"}),
        ("/v1/completions", {"prompt": "a"}),
    ],
)
def test_a_classifier_of_many_classes_refuses_the_rest(classifier, path, body):
    told = classifier.post(path, json=body)
    assert (told.status_code, told.json()["error"]["code"]) == (404, "route_unsupported_by_model")


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/score", {"text_1": "a"}, "text_2"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/rerank", {"query": "a"}, "documents"),
        ("/rerank", {"query": "a", "documents": ["b", {"title": "c"}]}, "documents.1.text"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ("/classify", {}, "input"),
    ],
)
def test_a_wrong_body_is_refused_with_its_field(cross, path, body, param):
    told = cross.post(path, json=body)
    assert (told.status_code, told.json()["error"]["param"]) == (400, param)
