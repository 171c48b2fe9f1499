"""The named barriers of the oracle: a generation is passed when all that were live at its first arrival, and still
are, have arrived.

The one rule: when nobody who had arrived is left, the next arrival is the first again.
"""

from leeway.protocol.ranks import natural
from leeway.protocol.reasons import Reason
from tests.properties.facts import Attempt


class DumbBarriers:
    """`live` tells who is live, `say` answers a request."""

    def __init__(self, live, say) -> None:
        self.live, self.say = live, say
        self.generations: dict[str, int] = {}
        self.attempts: dict[str, Attempt] = {}
        self.ended = None

    def arrive(self, request, asked, life, now) -> None:
        generation = self.generations.get(asked.name, 0)
        if asked.generation != generation:
            passed = ("passed", asked.name, asked.generation)
            ahead = ("refused", "invalid-value", {"generation": generation})
            self.say(request, passed if asked.generation < generation else ahead)
            return
        if self.ended:
            self.say(request, self.ended)
            return
        self.generations[asked.name] = generation
        attempt = self.attempts.get(asked.name)
        if attempt is None:
            attempt = self.attempts[asked.name] = Attempt(tuple(self.live()))
        attempt.parties = max(attempt.parties, asked.parties)
        if life not in attempt.arrived:
            attempt.arrived.append(life)
        attempt.waiting.append((request, life, now, asked.wait_seconds or 0.0))
        self.pass_complete()
        still_waits = any(asker == request for asker, *_ in attempt.waiting)
        if asked.wait_seconds is None and still_waits and self.generations[asked.name] == generation:
            self.not_yet(asked.name, request)

    def pass_complete(self) -> None:
        for name, attempt in list(self.attempts.items()):
            arrived = [life for life in attempt.arrived if life.ended is None]
            expected = [life for life in attempt.present if life.ended is None]
            if not arrived:
                # Nobody who had arrived is left: the next one to come is the first again.
                del self.attempts[name]
            elif all(life in arrived for life in expected) and len(arrived) >= attempt.parties:
                for request, *_ in attempt.waiting:
                    self.say(request, ("passed", name, self.generations[name]))
                self.generations[name] += 1
                del self.attempts[name]

    def not_yet(self, name, request) -> None:
        attempt = self.attempts[name]
        attempt.waiting = [one for one in attempt.waiting if one[0] != request]
        missing = [life for life in attempt.present if life.ended is None and life not in attempt.arrived]
        ranks = tuple(sorted((life.rank for life in missing), key=natural))
        self.say(request, ("not-yet", Reason.BARRIER, ranks))

    def depart(self, life, epitaph) -> None:
        for attempt in self.attempts.values():
            for request, *_ in [one for one in attempt.waiting if one[1] is life]:
                self.say(request, epitaph)
            attempt.waiting = [one for one in attempt.waiting if one[1] is not life]
        self.pass_complete()

    def tick(self, now) -> None:
        for name, attempt in self.attempts.items():
            for request in [request for request, _, since, wait in attempt.waiting if since + wait <= now]:
                self.not_yet(name, request)

    def gone(self, request) -> None:
        for attempt in self.attempts.values():
            attempt.waiting = [one for one in attempt.waiting if one[0] != request]

    def end(self) -> None:
        """The run is finished."""
        self.ended = ("refused", "finished", {})
        self.send_away(self.ended)

    def send_away(self, told) -> None:
        for attempt in self.attempts.values():
            for request, *_ in attempt.waiting:
                self.say(request, told)
            attempt.waiting = []

    def has(self, life) -> bool:
        """Whether a request of this life waits here."""
        return any(one[1] is life for attempt in self.attempts.values() for one in attempt.waiting)

    def pause(self, moved) -> None:
        for attempt in self.attempts.values():
            attempt.waiting = [(request, life, moved(since), wait) for request, life, since, wait in attempt.waiting]
