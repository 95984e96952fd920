"""Which brokers answer: verdicts from what was asked and answered, and when."""

from services.eventlog.broker_health import (
    FORGET_S,
    OLD_S,
    PERIOD_S,
    PROBE_S,
    RECOVERING_S,
    TICK_S,
    BrokerHealth,
    Turned,
)

NOTHING = Turned([], [], [], [])


def ticks(health: BrokerHealth, since: float, until: float) -> list[tuple[float, Turned]]:
    """Tick from `since` to `until`, and what turned when."""
    found = []
    for n in range(round((until - since) / TICK_S) + 1):
        now = since + n * TICK_S
        if (turned := health.tick(now)) != NOTHING:
            found.append((round(now, 1), turned))
        health.pause(now)
    return found


def test_a_broker_of_which_nothing_is_known_is_taken_for_healthy() -> None:
    assert BrokerHealth().healthy(1)
    assert not BrokerHealth().silent(1)


def test_each_broker_is_probed_once_a_second_and_at_once_when_a_connection_failed() -> None:
    health = BrokerHealth()
    assert health.due([1, 2], 0) == [1, 2]
    health.probe(1, 0)
    assert health.due([1], PERIOD_S) == []  # that one is under way
    health.probed(1, 0.1, answered=True)
    assert health.due([1], PERIOD_S - 0.1) == []
    health.suspected(1)
    assert health.due([1], PERIOD_S - 0.1) == [1]


def test_an_idle_process_looks_when_a_probe_is_due_and_otherwise_while_something_is_under_way() -> None:
    suspicions: list[None] = []
    health = BrokerHealth(lambda: suspicions.append(None))
    health.probe(1, 0)
    assert health.pause(0) == TICK_S
    health.probed(1, 0.01, answered=True)
    assert health.pause(TICK_S) == PERIOD_S - TICK_S
    suspicions.clear()
    request = health.asked(1, 0.3)  # it may grow old before the next tick
    assert (len(suspicions), health.pause(0.3)) == (1, TICK_S)
    health.answered(1, request)
    health.suspected(1)
    assert (len(suspicions), health.pause(0.4)) == (2, TICK_S)


def test_a_broker_that_is_suspected_again_and_again_is_not_probed_more_often_than_it_is_looked_at() -> None:
    health = BrokerHealth()
    health.probe(1, 0)
    health.probed(1, 0.01, answered=False)
    health.suspected(1)
    assert health.due([1], TICK_S / 2) == []
    assert health.due([1], TICK_S) == [1]


def test_a_hung_broker_turns_unhealthy_and_then_silent() -> None:
    health = BrokerHealth()
    health.probe(1, 0)
    (unhealthy_at, unhealthy), (silent_at, silent) = ticks(health, 0, PROBE_S)
    assert (unhealthy_at, unhealthy) == (OLD_S, Turned([1], [], [], []))
    assert (silent_at, silent) == (PROBE_S, Turned([], [1], [], [1]))
    health.probed(1, PROBE_S, answered=False)
    assert health.silent(1)


def test_a_broker_that_is_taken_out_of_the_cluster_is_counted_no_more() -> None:
    health = BrokerHealth()
    assert health.forget({1, 2}, 0) == 0
    for node, answered in ((1, True), (2, False)):
        health.probe(node, 0)
        health.probed(node, 0.01, answered=answered)
    assert health.tick(0.2).silent == [2]
    assert health.forget({1, 2}, 1) == 0
    assert health.forget({1}, FORGET_S) == 0  # it may only be away: Kafka names none that is
    assert health.forget({1}, FORGET_S + 1) == 1
    assert (health.forget({1}, FORGET_S + 2), health.tick(FORGET_S + 2)) == (0, NOTHING)
    assert health.silent(2)
    health.probe(2, FORGET_S + 3)
    health.probed(2, FORGET_S + 4, answered=True)
    assert health.tick(FORGET_S + 4) == NOTHING
    assert health.trusted_since(2) == FORGET_S + 4
    health.probe(2, FORGET_S + 5)
    health.probed(2, FORGET_S + 6, answered=False)
    assert health.tick(FORGET_S + 6).silent == [2]


def test_a_broker_that_takes_no_connection_is_silent_at_once() -> None:
    health = BrokerHealth()
    health.probe(1, 0)
    health.probed(1, 0.01, answered=False)
    assert health.tick(0.2) == Turned([1], [1], [], [])


def test_any_short_request_that_grows_old_makes_its_broker_unhealthy() -> None:
    health = BrokerHealth()
    request = health.asked(1, 0)
    turned = ticks(health, 0, OLD_S)
    assert turned == [(OLD_S, Turned([1], [], [], []))]
    assert not health.healthy(1)
    assert health.healthy(2)
    health.answered(1, request)
    health.tick(OLD_S + TICK_S)
    assert health.healthy(1)


def test_a_broker_that_answers_again_is_told_once_and_trusted_from_then_on() -> None:
    health = BrokerHealth()
    health.probe(1, 0)
    health.probed(1, 0.01, answered=False)
    health.tick(0.2)
    health.probe(1, 1)
    health.tick(1)
    health.probed(1, 1.5, answered=True)
    assert health.tick(1.6).answering == [1]
    assert health.tick(1.8) == NOTHING
    assert health.trusted_since(1) == 1.5


def test_a_process_that_stood_still_blames_nobody_and_trusts_no_old_metadata() -> None:
    health = BrokerHealth()
    health.probe(1, 0)
    health.pause(0)
    assert health.tick(60) == NOTHING
    assert health.healthy(1)
    assert health.trusted_since(1) == 60
    health.pause(60)
    assert [at for at, _ in ticks(health, 60.2, 62)] == [61.0, 62.0]


def test_metadata_is_asked_of_who_was_never_silent_first_and_of_the_silent_not_at_all() -> None:
    health = BrokerHealth()
    for node in (1, 2):
        health.probe(node, 0)
        health.probed(node, 0, answered=False)
    health.probe(1, 1)
    health.probed(1, 1, answered=True)
    health.asked(3, 0)
    health.tick(1)
    assert health.order([1, 2, 3, 4], 2) == [4, 3, 1]
    assert health.order([1, 4], 1 + RECOVERING_S) == [1, 4]
