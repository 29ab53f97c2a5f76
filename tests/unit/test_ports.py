"""Which ports are free, seen on real sockets."""

import socket
from collections.abc import Iterator

import pytest

from shared.errors import NoCapacity
from workers.ports import choose_port, is_free, is_released

HOST = "127.0.0.1"


def port_of(holder: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    return int(holder.getsockname()[1])


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    """Bind a port as vLLM does: reusable, and not listening yet."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        yield holder


def test_a_port_that_nobody_holds_is_free(bound: socket.socket) -> None:
    port = port_of(bound)
    bound.close()
    assert is_free(HOST, port)


def test_a_port_that_is_bound_and_does_not_listen_is_taken(bound: socket.socket) -> None:
    assert not is_free(HOST, port_of(bound))


def test_a_listening_port_is_taken(bound: socket.socket) -> None:
    bound.listen()
    assert not is_free(HOST, port_of(bound))


def test_a_port_held_on_all_addresses_is_taken() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("0.0.0.0", 0))
        assert not is_free(HOST, port_of(holder))


def test_asking_does_not_take_the_port(bound: socket.socket) -> None:
    port = port_of(bound)
    bound.close()
    assert [is_free(HOST, port) for _ in range(3)] == [True, True, True]


def test_a_wrong_address_is_no_taken_port() -> None:
    with pytest.raises(OSError, match="assign"):
        is_free("192.0.2.1", 9000)


def test_a_bound_port_is_not_released(bound: socket.socket) -> None:
    assert not is_released(HOST, port_of(bound))


def test_a_listening_port_is_not_released(bound: socket.socket) -> None:
    bound.listen()
    assert not is_released(HOST, port_of(bound))


def test_a_port_with_an_open_connection_is_not_released(bound: socket.socket) -> None:
    bound.listen()
    with socket.create_connection((HOST, port_of(bound))):
        accepted, _ = bound.accept()
        with accepted:
            port = port_of(bound)
            bound.close()
            assert not is_released(HOST, port)


def test_a_port_with_ended_connections_only_is_released(bound: socket.socket) -> None:
    bound.listen()
    port = port_of(bound)
    with socket.create_connection((HOST, port)) as client:
        accepted, _ = bound.accept()
        accepted.close()  # the server's end closes first, and keeps TIME_WAIT
        assert client.recv(1) == b""
    bound.close()
    assert (is_free(HOST, port), is_released(HOST, port)) == (False, True)


def test_a_port_with_ended_connections_only_is_chosen_last(bound: socket.socket) -> None:
    bound.listen()
    lingering = port_of(bound)
    with socket.create_connection((HOST, lingering)) as client:
        accepted, _ = bound.accept()
        accepted.close()
        client.recv(1)
    bound.close()
    with socket.socket() as other:
        other.bind((HOST, 0))
        free = port_of(other)
    assert choose_port(HOST, [lingering, free], set()) == free
    assert choose_port(HOST, [lingering], set()) == lingering


def test_the_first_free_port_is_chosen(bound: socket.socket) -> None:
    held = port_of(bound)
    with socket.socket() as other:
        other.bind((HOST, 0))
        free = port_of(other)
    assert choose_port(HOST, [held, free], taken=()) == free


def test_a_port_that_is_spoken_for_is_not_chosen(bound: socket.socket) -> None:
    port = port_of(bound)
    bound.close()
    with pytest.raises(NoCapacity, match="no free port among 0 tried from VLLM_BASE_PORT on"):
        choose_port(HOST, [port], taken={port})


def test_where_all_ports_are_held_there_is_no_capacity(bound: socket.socket) -> None:
    with pytest.raises(NoCapacity, match="no free port among 1 tried"):
        choose_port(HOST, [port_of(bound)], taken=())
