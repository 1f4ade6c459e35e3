"""The way to one teacher: width, pauses, health, order."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.core.errors import Unfinished, UserError
from synth.generate import concurrency as module
from synth.generate.concurrency import ConcurrencyController, Limits, TeacherClosed
from synth.teachers.base import Advertised, RetryableError


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


def lane(**limits):
    return ConcurrencyController(Limits(**limits))


async def served(way, number, seconds=0.001, tokens=0):
    """So many requests, each answered after some seconds; gives the most in flight at a time."""
    most = 0

    async def one():
        nonlocal most
        await way.acquire()
        most = max(most, way.in_flight)
        sent = time.monotonic()
        await asyncio.sleep(seconds)
        way.on_success(sent, tokens)

    await asyncio.gather(*(one() for _ in range(number)))
    return most


def test_the_first_request_goes_alone_and_then_the_lane_opens():
    async def run():
        way = lane(ceiling=100)
        await way.acquire()
        second = asyncio.create_task(way.acquire())
        await asyncio.sleep(0.01)
        assert not second.done()
        assert len(way._queue) == 1
        way.on_success(time.monotonic(), 0)
        await second
        assert way.limit == 50  # half of the ceiling
        way.on_success(time.monotonic(), 0)
        assert await served(way, 500) == 100

    asyncio.run(run())


def test_the_width_halves_once_a_round_trip_and_grows_by_steps_after():
    async def run():
        way = lane(ceiling=64)
        await served(way, 300)
        assert way.limit == 64
        for _ in range(40):
            await way.acquire()
        sent = time.monotonic()
        for n in range(40):
            way.on_error(RetryableError("status 429: slow", trouble="rate limit"), sent, n)
        assert way.limit == 32
        before = way.limit
        await served(way, 33)
        assert before < way.limit <= before + 4

    asyncio.run(run())


@given(st.lists(st.sampled_from(["answer", "rate limit", "outage", "malformed"]), max_size=80))
@settings(max_examples=60)
def test_whatever_happens_the_width_stays_in_bounds_and_nothing_is_lost(events):
    async def run():
        way = lane(ceiling=8)
        for number, event in enumerate(events):
            if way.closed:
                break
            way._paused_until = 0.0
            await way.acquire()
            sent = time.monotonic()
            if event == "answer":
                way.on_success(sent, 1)
            else:
                way.on_error(RetryableError("x", trouble=event), sent, number)
            assert 1 <= way.limit <= 8
            assert way.in_flight == 0

    asyncio.run(run())


def test_retry_after_holds_up_everyone():
    async def run():
        way = lane()
        await served(way, 3)
        await way.acquire()
        way.on_error(
            RetryableError("status 429", after=0.2, trouble="rate limit"), time.monotonic(), 1
        )
        start = time.monotonic()
        await way.acquire()
        assert 0.15 < time.monotonic() - start < 1

    asyncio.run(run())


def test_a_turn_that_came_a_moment_before_a_retry_after_waits_for_it():
    async def run():
        way = lane(ceiling=2)
        await served(way, 3)
        await way.acquire()
        await way.acquire()
        waiting = asyncio.create_task(way.acquire())
        await asyncio.sleep(0)
        way.on_success(time.monotonic(), 0)  # the turn comes, and before it is used:
        way.on_error(
            RetryableError("status 429", after=0.1, trouble="rate limit"), time.monotonic(), 1
        )
        asked_until = time.monotonic() + 0.09
        await waiting
        assert time.monotonic() > asked_until
        assert way.in_flight == 1

    asyncio.run(run())


def test_a_retry_after_of_zero_that_is_not_enough_is_stretched():
    async def run():
        way = lane(patience_s=0.5)
        tries, start = 0, time.monotonic()
        with pytest.raises(TeacherClosed):
            while True:
                await way.acquire()
                tries += 1
                way.on_error(
                    RetryableError("429", after=0.0, trouble="rate limit"), time.monotonic(), 1
                )
        assert 0.4 < time.monotonic() - start < 5
        assert tries < 15

    asyncio.run(run())


def test_one_request_that_fails_by_itself_does_not_hold_up_the_others():
    async def run():
        way = lane()
        await served(way, 10)
        for _ in range(20):
            await way.acquire()
            way.on_error(RetryableError("status 500"), time.monotonic(), "the same")
        assert way.health == "healthy"

    asyncio.run(run())


def test_many_failing_without_an_answer_between_is_an_outage():
    async def run():
        way = lane()
        await served(way, 10)
        for number in range(module.UNHEALTHY_AFTER):
            await way.acquire()
            way.on_error(RetryableError("status 500"), time.monotonic(), number)
        assert way.health == "unhealthy"
        assert way.limit == 1
        await served(way, 1)
        assert way.health == "healthy"

    asyncio.run(run())


def test_patience_ends_from_the_first_failure_and_not_from_the_last_answer():
    async def run():
        way = lane(patience_s=0.1)
        await served(way, 1)
        await asyncio.sleep(0.2)  # nothing was asked: that is no outage
        await way.acquire()
        way.on_error(RetryableError("status 502"), time.monotonic(), 1)
        assert way.closed is None
        await asyncio.sleep(0.15)
        await way.acquire()
        waiting = asyncio.create_task(way.acquire(time.monotonic() + 60))
        await asyncio.sleep(0)
        way.on_error(RetryableError("status 502"), time.monotonic(), 2)
        assert isinstance(way.closed, Unfinished)
        with pytest.raises(TeacherClosed, match="no answer for"):
            await waiting

    asyncio.run(run())


async def _first_failures(way, failure, number, waiting):
    """So many first requests that fail one by one, and then how many of `waiting` may be sent."""
    for name in range(number):
        await way.acquire()
        way.on_error(failure, time.monotonic(), name)
    turns = [asyncio.create_task(way.acquire()) for _ in range(waiting)]
    await asyncio.sleep(0)
    way._paused_until = 0.0
    way._pump()
    await asyncio.sleep(0)
    sent = way.in_flight
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)
    return sent


@pytest.mark.parametrize(
    ("failure", "number", "ceiling", "sent"),
    [
        (RetryableError("status 503"), 1, 64, 2),
        (RetryableError("status 503"), 3, 64, 4),
        (RetryableError("status 503"), 12, 64, module.MOST_FIRST_PROBES),
        (RetryableError("status 503"), 12, 2, 2),
        (RetryableError("cannot reach x", unreachable=True), 2, 64, 1),
        (RetryableError("status 404", trouble="malformed"), 3, 64, 1),
        (RetryableError("status 429", after=0.01, trouble="rate limit"), 3, 64, 1),
    ],
)
def test_first_failures_of_the_endpoint_itself_let_more_questions_try(
    failure, number, ceiling, sent
):
    assert asyncio.run(_first_failures(lane(ceiling=ceiling), failure, number, 20)) == sent


def test_what_failed_before_is_tried_alone_while_nothing_is_proved():
    async def run():
        way = lane()
        for name in range(5):
            await way.acquire()
            way.on_error(RetryableError("status 503"), time.monotonic(), name)
        way._paused_until = 0.0
        turns = [asyncio.create_task(way.acquire(time.monotonic())) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert way.in_flight == 1
        for turn in turns:
            turn.cancel()

    asyncio.run(run())


def test_the_first_answer_ends_a_pause_but_not_one_that_was_asked_for():
    async def run():
        way = lane()
        for name in range(4):
            await way.acquire()
            way.on_error(RetryableError("status 503"), time.monotonic(), name)
            way._paused_until = 0.0
        two = [asyncio.create_task(way.acquire()) for _ in range(2)]
        await asyncio.gather(*two)
        way.on_error(RetryableError("status 503"), time.monotonic(), 9)
        assert way._paused_until > time.monotonic()
        way.on_success(time.monotonic(), 0)
        assert way._paused_until < time.monotonic()
        await way.acquire()
        failure = RetryableError("status 429", after=30.0, trouble="rate limit")
        way.on_error(failure, time.monotonic(), 10)
        before = way._paused_until
        way.in_flight, way.health = 1, "unhealthy"
        way.on_success(time.monotonic(), 0)
        assert way._paused_until == before > time.monotonic() + 29

    asyncio.run(run())


def test_nobody_there_from_the_start_is_a_wrong_address():
    async def run():
        way = lane()
        for _ in range(module.FIRST_ATTEMPTS):
            await way.acquire()
            way.on_error(RetryableError("cannot reach x", unreachable=True), time.monotonic(), 1)
        assert isinstance(way.closed, UserError)

    asyncio.run(run())


def test_what_is_tried_again_comes_before_what_came_after_its_time():
    async def run():
        way, order = lane(), []

        async def one(name, due=0.0):
            await way.acquire(due)
            order.append(name)

        await way.acquire()  # the lane is one wide: all others wait
        now = time.monotonic()
        later = asyncio.create_task(one("again", now + 0.02))
        first = asyncio.create_task(one("first"))
        await asyncio.sleep(0.05)
        last = asyncio.create_task(one("last"))
        await asyncio.sleep(0)
        way.on_success(now, 0)
        await asyncio.gather(later, first, last)
        assert order == ["first", "again", "last"]

    asyncio.run(run())


def test_requests_a_minute_are_kept():
    async def run():
        way = lane(rpm=1200)  # 20 a second, with a second's worth saved up
        start = time.monotonic()
        await served(way, 40)
        assert 0.8 < time.monotonic() - start < 3

    asyncio.run(run())


@pytest.mark.slow
def test_tokens_a_minute_are_kept():
    async def run():
        way = lane(tpm=6000, ceiling=1)  # 100 a second, ten seconds' worth saved up
        start = time.monotonic()
        await served(way, 13, tokens=100)
        assert 0.9 < time.monotonic() - start < 4

    asyncio.run(run())


def test_an_allowance_that_is_used_up_is_waited_for():
    async def run():
        said = Advertised(requests=0, requests_at=time.monotonic() + 0.2)
        way = ConcurrencyController(Limits(), lambda: said)
        start = time.monotonic()
        await way.acquire()
        assert 0.15 < time.monotonic() - start < 1

    asyncio.run(run())


def test_a_waiter_that_is_cancelled_leaves_its_place():
    async def run():
        way = lane()
        await way.acquire()
        gone, stays = asyncio.create_task(way.acquire()), asyncio.create_task(way.acquire())
        await asyncio.sleep(0)
        gone.cancel()
        way.release()
        await stays
        assert (way.in_flight, len(way._queue)) == (1, 0)

    asyncio.run(run())


def fails(way, request, trouble="outage", odd=False, after=None, sent=None):
    sent = time.monotonic() if sent is None else sent
    way.on_error(RetryableError("status 500", after=after, trouble=trouble), sent, request, odd)


def test_single_failures_among_many_answers_leave_the_width_at_the_ceiling():
    async def run():
        way = lane(ceiling=16)
        await served(way, 200)
        for number in range(60):
            await served(way, 19)
            await way.acquire()
            fails(way, number, "rate limit" if number % 3 == 0 else "outage", odd=True)
            assert way._paused_until < time.monotonic()
        assert way.limit >= 14
        assert way.health == "healthy"

    asyncio.run(run())


def test_requests_that_fail_where_others_are_answered_are_no_outage():
    async def run():
        way = lane(patience_s=0.05)
        await served(way, 10)
        start = time.monotonic()
        for number in range(40):  # only these are left: no answer comes any more
            await way.acquire()
            fails(way, number % 10, odd=True)
            await asyncio.sleep(0.002)
        assert time.monotonic() - start > way.limits.patience_s
        assert (way.health, way.closed) == ("healthy", None)
        assert way._paused_until < time.monotonic()

    asyncio.run(run())


def test_failures_with_more_requests_still_in_flight_are_no_outage_yet():
    async def run():
        way = lane(ceiling=32)
        await served(way, 100)
        for _ in range(12):
            await way.acquire()
        for number in range(12):
            await way.acquire()
            fails(way, number)
            assert way.health == "healthy"
            assert way._paused_until < time.monotonic()
        await way.acquire()
        fails(way, 12)
        assert way.health == "unhealthy"

    asyncio.run(run())


@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("trouble", ["rate limit", "outage", "malformed"])
def test_a_pause_that_the_endpoint_asks_for_holds_everyone_up_and_is_never_shorter(trouble, odd):
    async def run():
        way = lane()
        await served(way, 3)
        await way.acquire()
        before = time.monotonic()
        fails(way, 1, trouble, odd, after=30.0)
        assert before + 30.0 <= way._paused_until <= time.monotonic() + 31.0

    asyncio.run(run())


def test_a_refusal_shows_that_the_endpoint_is_there():
    async def run():
        way = lane()
        await served(way, 3)
        for number in range(module.UNHEALTHY_AFTER):
            await way.acquire()
            fails(way, number)
        assert way.health == "unhealthy"
        await way.acquire()
        way.on_refusal()
        assert way.health == "healthy"

    asyncio.run(run())


@pytest.mark.parametrize(("ceiling", "most"), [(64, module.MOST_PROBES), (2, 2), (1, 1)])
def test_a_first_request_that_never_ends_lets_others_try(monkeypatch, ceiling, most):
    monkeypatch.setattr(module, "PROBE_EVERY_S", 0.02)

    async def run():
        way = lane(ceiling=ceiling)
        turns = [asyncio.create_task(way.acquire()) for _ in range(10)]
        await asyncio.sleep(0.5)
        assert way.in_flight == sum(turn.done() for turn in turns) == most
        way.on_success(time.monotonic(), 0)
        await asyncio.sleep(0.01)
        assert way.in_flight == min(ceiling, 9)
        for turn in turns:
            turn.cancel()

    asyncio.run(run())
