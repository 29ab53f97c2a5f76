"""Each web process leaves new connections to those that have fewer."""

from web.relay.loads import Loads


def test_a_process_is_above_one_that_has_fewer() -> None:
    loads = Loads()
    one, two = loads.new(), loads.new()
    one.tell(3)
    two.tell(2)
    assert one.is_above(3)
    assert not two.is_above(2)
    two.tell(3)
    assert not one.is_above(3)


def test_nothing_is_left_to_a_process_that_boots_drains_or_has_died() -> None:
    loads = Loads()
    one, two = loads.new(), loads.new()
    assert not one.is_above(1000)
    two.tell(0)
    assert one.is_above(1)
    two.leave()
    assert not one.is_above(1)
    two.tell(0)
    loads.free(two)
    assert not one.is_above(1)


def test_the_place_of_one_that_ended_is_taken_again() -> None:
    loads = Loads()
    places = [loads.new() for _ in range(64)]
    beyond = loads.new()
    beyond.tell(0)
    assert not beyond.is_above(1000)
    assert not places[0].is_above(1000)
    loads.free(beyond)
    loads.free(places[5])
    assert loads.new().slot == 5
