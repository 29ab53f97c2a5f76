"""REST as its users know it: create, list, look, delete, logs."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.demo.waiting import until
from tests.integration.harness import WAIT, LocalFleet, processes_of


def test_create_answers_at_once_with_record_and_location(fleet: LocalFleet) -> None:
    answer = fleet.call("POST", "/instances", json={"model_name": "org/tiny"})
    record = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/instances/{record['instance_id']}"
    assert record["status"] in ("pending", "starting")


def test_create_with_wait_answers_when_it_runs(fleet: LocalFleet) -> None:
    record = fleet.create(max_model_len=128)
    assert record["status"] == "running"
    assert record["params"]["max_model_len"] == 128
    assert record["params"]["dtype"] == "auto"
    assert record["node"] in ("one", "two")
    assert record["created_at"] <= record["started_at"] <= record["ready_at"]
    assert "engine_key" not in record


def test_a_failed_start_says_why_and_shows_the_log(fleet: LocalFleet) -> None:
    record = fleet.create(no_such_flag=1)
    assert record["status"] == "failed"
    assert record["cause"] == "bad_flag"
    assert "unrecognized arguments: --no-such-flag=1" in record["reason"]
    assert record["advice"]
    assert any("unrecognized arguments" in line for line in record["last_log"])


def test_a_failed_instance_gives_its_place_back(fleet: LocalFleet) -> None:
    for _ in range(6):  # one more than both nodes take
        assert fleet.create(no_such_flag=1)["status"] == "failed"


def test_the_load_stage_shows_while_it_starts(fleet: LocalFleet) -> None:
    body = {"model_name": "org/tiny", "params": {"start_delay": 3}}
    instance_id = fleet.call("POST", "/instances", json=body).json()["instance_id"]
    assert until(lambda: fleet.record(instance_id)["stage"] == "weights", 10)
    waiting = fleet.call("GET", f"/proxy/{instance_id}/v1/models")
    assert waiting.status_code == 503
    assert "starting, stage" in waiting.json()["error"]["message"]
    assert int(waiting.headers["Retry-After"]) > 0
    assert fleet.becomes(instance_id, "running")["stage"] == ""


def test_list_has_what_is_not_ended_and_all_has_the_rest(fleet: LocalFleet) -> None:
    kept, ended = fleet.create()["instance_id"], fleet.create()["instance_id"]
    fleet.delete(ended)
    listed = fleet.call("GET", "/instances").json()
    assert kept in listed
    assert ended not in listed
    everything = fleet.call("GET", "/instances?all=1").json()
    assert everything[ended]["status"] == "stopped"
    assert everything[kept]["status"] == "running"


def test_delete_leaves_no_process_and_no_port(fleet: LocalFleet) -> None:
    record = fleet.create(setsid_child=True)
    folder = fleet.run_dir(record["node"]) / "engines" / record["instance_id"]
    assert len(processes_of(folder)) >= 5  # shim, server, core, worker, the escaped child
    assert fleet.delete(record["instance_id"])["status"] == "deleted"
    assert processes_of(folder) == []
    with socket.socket() as probe:
        assert probe.connect_ex((record["host"], record["port"])) != 0


def test_delete_can_be_repeated(fleet: LocalFleet) -> None:
    instance_id = fleet.create()["instance_id"]
    first = fleet.call("DELETE", f"/instances/{instance_id}")
    assert (first.status_code, first.json()["status"]) == (202, "stopping")
    assert fleet.delete(instance_id)["status"] == "deleted"
    again = fleet.call("DELETE", f"/instances/{instance_id}")
    assert (again.status_code, again.json()["status"]) == (200, "deleted")


def test_to_forget_one_of_a_living_node_is_refused_and_changes_nothing(fleet: LocalFleet) -> None:
    instance_id = fleet.create()["instance_id"]
    refused = fleet.call("DELETE", f"/instances/{instance_id}?force=1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert fleet.record(instance_id)["desired"] == "running"
    assert fleet.delete(instance_id)["status"] == "deleted"
    assert fleet.call("DELETE", f"/instances/{instance_id}?force=1").json()["status"] == "deleted"


def test_delete_while_it_loads(fleet: LocalFleet) -> None:
    body = {"model_name": "org/tiny", "params": {"start_delay": 30}}
    instance_id = fleet.call("POST", "/instances", json=body).json()["instance_id"]
    assert until(lambda: fleet.record(instance_id)["pid"], 10)
    assert fleet.delete(instance_id)["status"] == "deleted"


def test_delete_before_it_is_begun(fleet: LocalFleet) -> None:
    instance_id = fleet.call("POST", "/instances", json={"model_name": "m"}).json()["instance_id"]
    assert fleet.delete(instance_id)["status"] == "deleted"


def test_delete_of_a_failed_one(fleet: LocalFleet) -> None:
    instance_id = fleet.create(no_such_flag=1)["instance_id"]
    assert fleet.delete(instance_id)["status"] == "deleted"
    assert instance_id not in fleet.call("GET", "/instances").json()


def test_deleted_twenty_times_at_once_is_one_end(fleet: LocalFleet) -> None:
    instance_id = fleet.create()["instance_id"]
    with ThreadPoolExecutor(20) as pool:
        said = list(pool.map(lambda _: fleet.delete(instance_id)["status"], range(20)))
    assert said == ["deleted"] * 20


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_id_is_404(fleet: LocalFleet, method: str) -> None:
    answer = fleet.call(method, "/instances/nobody-x")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", None),
        ('["a"]', None),
        ("{}", "model_name"),
        ('{"model_name": ""}', "model_name"),
        ('{"model_name": "m", "modle": 1}', "modle"),
        ('{"model_name": "m", "params": []}', "params"),
        ('{"model_name": "m", "timeout": -1}', "timeout"),
        ('{"model_name": "m", "timeout": true}', "timeout"),
        ('{"model_name": "m", "params": {"port": 1}}', "params.port"),
        ('{"model_name": "m", "params": {"api-key": "x"}}', "params.api-key"),
        (
            '{"model_name": "m", "params": {"tensor_parallel_size": 0}}',
            "params.tensor_parallel_size",
        ),
    ],
)
def test_a_bad_body_is_400_and_names_the_field(
    fleet: LocalFleet, body: str, field: str | None
) -> None:
    answer = fleet.call("POST", "/instances", data=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == field
    assert error["message"]


def raw(fleet: LocalFleet, head: str, body: bytes) -> bytes:
    """Send a request as it stands; return the answer."""
    port = int(fleet.base.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_body_that_is_too_large_is_413(fleet: LocalFleet) -> None:
    answer = fleet.call("POST", "/instances", data=b" " * 2**21)
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        413,
        "request_entity_too_large",
    )


def test_a_body_that_is_cut_off_creates_nothing(fleet: LocalFleet) -> None:
    head = "POST /instances HTTP/1.1\nHost: localhost\nContent-Length: 900\n\n"
    answer = raw(fleet, head, b'{"model_name": "org/tiny"}')
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"ended after 26 of 900 bytes" in answer
    assert fleet.call("GET", "/instances").json() == {}


@pytest.mark.parametrize("path", ["/instances", "/proxy/ID/v1/completions"])
def test_malformed_chunks_are_400(fleet: LocalFleet, path: str) -> None:
    target = path.replace("ID", fleet.create()["instance_id"])
    head = f"POST {target} HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n"
    answer = raw(fleet, head, b"ZZ\r\nabc\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"malformed chunks" in answer


def test_a_malformed_base_configuration_ends_the_web_tier_and_says_why(
    own_fleet: LocalFleet,
) -> None:
    config = own_fleet.folder / "config.json"
    config.write_text('{"port": 1}')
    web = own_fleet.start(
        "web",
        ["gunicorn", "--config", "configs/gunicorn.conf.py", "web.wsgi:app"],
        {"VLLM_CONFIG": str(config), "APP_PORT": "5999"},
    )
    assert web.popen.wait(20) != 0
    assert "the fleet owns" in web.log.read_text()


def test_no_room_is_503_with_the_reason_of_each_node(fleet: LocalFleet) -> None:
    answers = [fleet.call("POST", "/instances", json={"model_name": "m"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [503]
    message = answers[-1].json()["error"]["message"]
    assert "one runs 3 of at most 3 instances" in message
    assert "two runs 2 of at most 2 instances" in message
    assert answers[-1].headers["Retry-After"]


def test_logs_are_kept_after_the_end(fleet: LocalFleet) -> None:
    instance_id = fleet.create()["instance_id"]
    fleet.delete(instance_id)
    answer = fleet.call("GET", f"/instances/{instance_id}/logs?tail=5000")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "Starting vLLM server" in answer.text
    assert len(fleet.call("GET", f"/instances/{instance_id}/logs?tail=2").text.splitlines()) == 2


def test_the_log_does_not_show_the_engines_key(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one")
    own_fleet.start_web()
    instance_id = own_fleet.create()["instance_id"]
    echoed = own_fleet.call("GET", f"/proxy/{instance_id}/echo").json()["headers"]
    key = dict(echoed)["Authorization"].removeprefix("Bearer ")
    assert len(key) > 30
    assert key not in own_fleet.call("GET", f"/instances/{instance_id}").text
    assert key not in own_fleet.call("GET", f"/instances/{instance_id}/logs?tail=5000").text


def test_ready_needs_a_worker(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    answer = own_fleet.call("GET", "/readyz")
    assert answer.status_code == 503
    assert answer.json()["workers"] == "no worker sends a heartbeat"
    own_fleet.start_worker("one")
    assert own_fleet.call("GET", "/readyz").status_code == 200


def test_created_without_a_doorbell_it_starts_all_the_same(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    worker = own_fleet.start_worker("one")
    worker.popen.send_signal(signal.SIGSTOP)  # the bell is rung, nobody hears
    body = {"model_name": "org/tiny"}
    instance_id = own_fleet.call("POST", "/instances", json=body).json()["instance_id"]
    worker.popen.send_signal(signal.SIGCONT)
    assert own_fleet.becomes(instance_id, "running")


def test_unknown_paths_and_methods_answer_in_the_one_error_shape(fleet: LocalFleet) -> None:
    assert fleet.call("GET", "/no/such").json()["error"]["code"] == "not_found"
    refused = fleet.call("PUT", "/instances")
    assert refused.status_code == 405
    assert refused.json()["error"]["code"] == "method_not_allowed"


def test_what_gunicorn_refuses_has_the_one_error_shape(fleet: LocalFleet) -> None:
    port = int(fleet.base.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n")
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"type": "invalid_request_error"' in answer


def test_wait_is_checked(fleet: LocalFleet) -> None:
    answer = fleet.call("POST", "/instances?wait=soon", json={"model_name": "m"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "wait"
    assert WAIT  # and a good one is used throughout
