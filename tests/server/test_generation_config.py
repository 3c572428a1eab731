"""A model's own sampling defaults: applied, announced, and never over a request."""

import json

import pytest

from inferplane.errors import ConfigError
from inferplane.server.served_model import load_served_model

GIVEN = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "min_p": 7, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("defaults") / "generation.json"
    path.write_text(json.dumps(GIVEN))
    return path


@pytest.fixture(scope="module")
def opinionated(start, file):
    server = start(generation_config=str(file))
    server.wait_ready()
    while "Ready in" not in server.output.getvalue():  # the banner follows readiness
        pass
    return server


def test_defaults_of_the_model_are_told_with_each_answer_that_uses_them(opinionated):
    with opinionated.client() as client:
        body = {"prompt": "a", "max_tokens": 1, "top_p": 0.5}
        told = client.post("/v1/completions", json=body).headers["x-inferplane-warnings"]
        card = client.get("/v1/models").json()["data"][0]
    assert 'model_default;param="temperature";value="0.3"' in told
    assert 'model_default;param="top_k";value="40"' in told
    assert 'param="top_p"' not in told and "min_p" not in told
    defaults = card["inferplane"]["sampling_defaults"]
    assert defaults == {"temperature": 0.3, "top_p": 0.9, "top_k": 40}
    assert "temperature 0.3 (not 1)" in opinionated.output.getvalue()


def test_none_drops_them_and_a_bad_file_is_an_error(settings_for, tmp_path):
    model = load_served_model(settings_for(generation_config="none"))
    assert model.defaults == {}
    model.close()
    with pytest.raises(ConfigError, match=r"absent\.json"):
        load_served_model(settings_for(generation_config=str(tmp_path / "absent.json")))


def test_a_template_file_replaces_the_models_own(settings_for, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ messages[0].content }}?")
    model = load_served_model(settings_for(chat_template=path))
    assert model.template.render([{"role": "user", "content": "why"}]) == "why?"
    model.close()
