"""One start as it goes on: what counts as going on, and what is expected of it."""

from __future__ import annotations

from shared.domain.eta import PastStart
from workers.loading import Loading
from workers.stages import MOVED_STEP, Load

CONFIGURE = "INFO 11-02 10:00:00 [model.py:733] Resolved architecture: LlamaForCausalLM"
HALF = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<?, ?it/s]"
STILL_HALF = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [09:00<?, ?it/s]"
ALL = "Loading safetensors checkpoint shards: 100% Completed | 2/2 [09:00<?, ?it/s]"
COMPILING = "INFO 11-02 10:00:00 [backends.py:399] Compiling a graph for compile range (1, 8) takes"
WAITING = "No available shared memory broadcast block found in 60 seconds."
PROBED = 'INFO:     127.0.0.1:47328 - "GET /health HTTP/1.1" 503 Service Unavailable'


def test_another_stage_is_progress() -> None:
    assert Loading().read([CONFIGURE], 1.0)


def test_another_percentage_is_progress() -> None:
    loading = Loading(Load("weights", 0.5, "1/2"))
    assert loading.read([ALL], 1.0)


def test_a_bar_that_is_drawn_again_is_none() -> None:
    loading = Loading()
    loading.read([HALF], 1.0)
    assert not loading.read([STILL_HALF], 540.0)


def test_a_known_line_of_the_same_stage_is_progress() -> None:
    loading = Loading()
    loading.read([COMPILING], 1.0)
    assert loading.read([COMPILING], 300.0)


def test_a_line_that_says_nothing_of_the_load_is_none() -> None:
    assert not Loading().read([WAITING, PROBED], 60.0)


def test_an_earlier_stages_line_is_none() -> None:
    assert not Loading(Load("weights", 0.5)).read([CONFIGURE], 60.0)


def test_reading_a_large_file_in_silence_is_progress() -> None:
    loading = Loading()
    assert loading.moved(MOVED_STEP, 5.0)
    assert loading.moved(2 * MOVED_STEP + 1, 10.0)


def test_the_few_bytes_of_an_engine_that_only_polls_are_none() -> None:
    loading = Loading()
    loading.moved(3 * MOVED_STEP, 5.0)
    assert not loading.moved(3 * MOVED_STEP + 100_000, 600.0)


def test_a_process_that_ended_and_took_its_count_along_is_none() -> None:
    loading = Loading()
    loading.moved(9 * MOVED_STEP, 5.0)
    assert not loading.moved(2 * MOVED_STEP, 10.0)


def test_it_remembers_when_each_stage_began() -> None:
    loading = Loading()
    loading.read([CONFIGURE], 3.0)
    loading.read([HALF], 9.0)
    loading.read([ALL], 20.0)
    assert loading.stages == {"configure": 3.0, "weights": 9.0}


def test_what_is_expected_follows_the_load() -> None:
    loading = Loading()
    loading.past = (PastStart(seconds=30.0, stages={"configure": 3.0, "weights": 10.0}),)
    assert loading.expected(1.0) == 30.0
    loading.read([HALF], 20.0)  # half of it left, of what took 20 s
    assert loading.expected(21.0) == 30.0
    loading.read([ALL], 40.0)
    assert loading.expected(40.0) is None


def test_a_start_that_another_worker_saw_begin_goes_on_from_there() -> None:
    loading = Loading(Load("weights", 0.5, "1/2"), 15.0)
    loading.past = (PastStart(seconds=30.0, stages={"weights": 10.0}),)
    assert loading.expected(16.0) == 25.0
