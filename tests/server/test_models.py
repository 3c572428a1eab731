"""GET /v1/models and the small routes."""


def test_the_served_model_is_listed_under_its_first_name(http):
    (card,) = http.get("/v1/models").json()["data"]
    assert card["id"] == "tiny" and card["object"] == "model"
    assert card["owned_by"] == "inferplane" and card["max_model_len"] == 512
    assert card["aliases"] == ["alias", "org/name"]
    assert card["inferplane"]["state"] == "ready"


def test_every_name_finds_the_model_with_its_slash_in_either_form(http):
    for name in ("tiny", "alias", "org/name", "org%2Fname"):
        assert http.get(f"/v1/models/{name}").json()["id"] == "tiny"


def test_head_is_get_without_a_body(http):
    response = http.head("/v1/models")
    assert response.status_code == 200 and response.content == b""


def test_version_and_root_answer(http):
    told = http.get("/version").json()
    assert told["device"] == "null" and told["version"]
    assert "tiny" in http.get("/").text


def test_probes_are_ready(http):
    for path in ("/livez", "/readyz", "/startupz", "/health"):
        told = http.get(path).json()
        assert told["status"] == "ok" and told["phase"] == "ready" and told["pct"] == 100


def test_nobody_is_told_where_a_model_is_on_the_disk(start, model_folder):
    server = start(model_source=str(model_folder))
    with server.client() as http:
        answer = http.get("/v1/models")
    assert answer.json()["data"][0]["root"] == "tiny"
    assert str(model_folder.parent) not in answer.text
