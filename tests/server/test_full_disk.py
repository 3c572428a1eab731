"""A database that cannot grow, as on a full disk, costs what would be stored and nothing else."""

import pytest

ASKED = {"model": "tiny", "input": "a " * 150, "max_output_tokens": 2}
MOST = 200
"""Answers after which pages that were still free are full."""


def limit_pages(server, number: int) -> None:
    """Let the database grow to so many pages, or not at all where it has more."""

    def work(connection) -> None:
        connection.execute(f"PRAGMA max_page_count={number}").fetchall()

    server.call(lambda: server.context.state.run(work))


def stored(client) -> tuple[str, int]:
    """Id of a new answer, and the status with which it is found again."""
    answer = client.post("/v1/responses", json=ASKED)
    assert answer.status_code == 200
    found = client.get(f"/v1/responses/{answer.json()['id']}")
    assert found.status_code == 200 or found.json()["error"]["code"] == "response_not_found"
    return answer.json()["id"], found.status_code


@pytest.mark.case("full-disk")
def test_a_full_disk_loses_what_would_be_stored_and_the_server_lives_on(start, tmp_path):
    server = start(state=tmp_path / "state")
    server.wait_ready()
    with server.client() as client:
        kept, status = stored(client)
        assert status == 200
        limit_pages(server, 1)
        statuses = (stored(client)[1] for _ in range(MOST))
        assert 404 in statuses
        assert client.get(f"/v1/responses/{kept}").status_code == 200
        limit_pages(server, 1_000_000)
        assert stored(client)[1] == 200
