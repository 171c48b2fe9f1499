"""The ring of decisions: ids that rise, and what one who comes later is told."""

import json

from leeway.ps.watching.decision_log import DecisionLog, Kind


def begin(*, at=1_000.0, remembered=4):
    return DecisionLog(lambda: 2.5, lambda: at, remembered)


def ids(decisions):
    return [decision.id for decision in decisions]


class TestIds:
    def test_rise_one_by_one_from_the_time_of_the_start_in_milliseconds(self):
        log = begin(at=1_000.25)
        assert log.newest_id == 1_000_250
        for _ in range(3):
            log.add(Kind.JOINED, "here")
        assert ids(log.after(None)) == [1_000_251, 1_000_252, 1_000_253]
        assert log.newest_id == 1_000_253

    def test_of_a_later_start_are_higher(self):
        before, after = begin(at=1_000.0), begin(at=1_001.0)
        for _ in range(500):
            before.add(Kind.JOINED, "here")
        after.add(Kind.JOINED, "here")
        assert after.after(before.newest_id) == after.after(None)


class TestAfter:
    def test_the_oldest_first(self):
        log = begin()
        for number in range(3):
            log.add(Kind.WAITS, str(number))
        assert [decision.detail for decision in log.after(None)] == ["0", "1", "2"]
        assert [decision.detail for decision in log.after(log.newest_id - 1)] == ["2"]
        assert log.after(log.newest_id) == []

    def test_what_is_no_longer_remembered_is_left_out(self):
        log = begin(remembered=4)
        first = log.newest_id
        for _ in range(10):
            log.add(Kind.WAITS, "why")
        assert ids(log.after(first)) == ids(log.after(None)) == list(range(first + 7, first + 11))

    def test_an_id_that_is_yet_to_come_is_none_of_ours(self):
        log = begin()
        log.add(Kind.WAITS, "why")
        assert log.after(log.newest_id + 1) == log.after(None) != []


def test_fields():
    log = begin()
    log.add(Kind.ENDED, "silent for 10 s", rank="w1", reason="lease-expired")
    (decision,) = log.after(None)
    assert json.loads(json.dumps(decision.to_fields())) == {
        "id": 1_000_001,
        "seconds": 2.5,
        "time": 1000.0,
        "kind": "ended",
        "group": None,
        "rank": "w1",
        "reason": "lease-expired",
        "mode": None,
        "detail": "silent for 10 s",
    }
