"""Plays the queue forward: when each waiting job is claimed, if all goes on as it has been measured.

The order is that of worker.next_job() in migrations/sql/claim.sql: priority, then the lines in turn, in a line the shops in turn,
in a shop the jobs as they stand; no more of a shop at once than its limit. All times are in seconds from now.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heappop, heappush
from math import inf
from random import Random

HORIZON_S = 30 * 86_400.0  # beyond that nothing is foreseen
GRAIN = 20  # jobs are started one by one up to a shop's GRAIN-th, then by GRAIN-ths of their number
MOST_ARRIVALS = 0.9  # share of the lanes that jobs which come later can have

Line = tuple[str, str]  # pool and engine; '' stands for any engine


@dataclass
class Part:
    """Jobs of a shop that stand next to each other. `seconds` each keeps a lane busy; None if that is not known.

    `first_start` and `last_start` are what play() finds, None if it is not known.
    """

    jobs: int
    seconds: float | None
    first_start: float | None = None
    last_start: float | None = None


@dataclass
class Queue:
    """The waiting jobs of a shop in a line at a priority, in their order."""

    line: Line
    priority: int
    shop: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Host:
    """A host that claims. `busy` holds the seconds until each job that runs on it ends (None: not known) and its shop."""

    pools: Sequence[str]
    engine: str
    lanes: int
    busy: Sequence[tuple[float | None, str]] = ()


@dataclass(frozen=True)
class Arrivals:
    """Jobs that go on coming to a line, each of another shop."""

    line: Line
    priority: int
    per_s: float
    seconds: float


@dataclass(frozen=True)
class Served:
    """The shop of a line and priority whose job was claimed last, and how long ago."""

    shop: str
    ago_s: float


@dataclass
class _Waiting:
    parts: Sequence[Part]
    at: int = 0  # the part
    done: int = 0  # of that part
    taken: int = 0  # of all
    counts: bool = True  # it is not one of the arrivals


@dataclass
class _Level:
    """The shops that wait in a line at a priority."""

    served: str = ""
    served_at: tuple[float, int] = (-inf, 0)  # with a number, since many jobs start at one moment
    names: list[str] = field(default_factory=list)
    waiting: dict[str, _Waiting] = field(default_factory=dict)

    def add(self, shop: str, waiting: _Waiting) -> None:
        insort(self.names, shop)
        self.waiting[shop] = waiting

    def remove(self, shop: str) -> None:
        del self.names[bisect_left(self.names, shop)]
        del self.waiting[shop]


def play(
    hosts: Sequence[Host],
    queues: Sequence[Queue],
    *,
    arrivals: Sequence[Arrivals] = (),
    served: Mapping[tuple[Line, int], Served] | None = None,
    limits: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> None:
    """Find when the jobs of each part start.

    served: whose turn it was last, by line and priority.
    limits, limit: the most jobs at once of single shops, and of each other shop; None for no limit.
    """
    _Game(hosts, queues, arrivals, served or {}, limits or {}, limit).run()


class _Game:
    def __init__(
        self,
        hosts: Sequence[Host],
        queues: Sequence[Queue],
        arrivals: Sequence[Arrivals],
        served: Mapping[tuple[Line, int], Served],
        limits: Mapping[str, int],
        limit: int | None,
    ) -> None:
        self.hosts = hosts
        self.limits, self.limit = limits, limit
        self.groups = _groups(hosts)
        self.known_until = dict.fromkeys(self.groups, inf)  # by group of hosts
        lines = {line for host in hosts for line in _lines(host)}
        self.levels: dict[Line, dict[int, _Level]] = {line: {} for line in lines}
        self.served = served
        self.lanes = sum(host.lanes for host in hosts)
        self.left = 0
        self.running: Counter[str] = Counter()
        self.idle = [0] * len(hosts)
        self.events: list[tuple[float, int, int, str]] = []  # time, number, host or arrivals (negative), shop
        self.numbers = iter(range(1 << 62))
        for queue in queues:
            if queue.line in lines and queue.parts:
                self.left += sum(part.jobs for part in queue.parts)
                self._level(queue.line, queue.priority).add(queue.shop, _Waiting(queue.parts))
        for n, host in enumerate(hosts):
            for seconds, shop in host.busy[: host.lanes]:
                self.running[shop] += 1
                if seconds is None:
                    self._doubt(n, 0.0)
                else:
                    self._push(seconds, n, shop)
            self.idle[n] = max(0, host.lanes - len(host.busy))
        self.arrivals = self._bearable([each for each in arrivals if each.line in lines])
        # Always the same gaps, so that an estimate does not change from one forecast to the next without a reason.
        self.dice = Random(1)  # noqa: S311 - no secret
        for n in range(len(self.arrivals)):
            self._expect(0.0, n, 1)

    def run(self) -> None:
        self._fill(0.0)
        while self.events and self.left:
            now, number, what, shop = heappop(self.events)
            if now > HORIZON_S:
                return
            if what < 0:
                self._arrive(now, number, -1 - what)
            else:
                self.running[shop] -= 1
                self.idle[what] += 1
            if not self.events or self.events[0][0] > now:
                self._fill(now)

    def _level(self, line: Line, priority: int) -> _Level:
        levels = self.levels[line]
        if priority not in levels:
            last = self.served.get((line, priority))
            levels[priority] = _Level(last.shop, (-last.ago_s, 0)) if last else _Level()
            self.levels[line] = dict(sorted(levels.items(), reverse=True))
        return self.levels[line][priority]

    def _push(self, time: float, what: int, shop: str) -> None:
        heappush(self.events, (time, next(self.numbers), what, shop))

    def _doubt(self, host: int, now: float) -> None:
        """From now on nothing is known of the hosts that share jobs with this one."""
        group = self._group(host)
        self.known_until[group] = min(self.known_until[group], now)

    def _group(self, host: int) -> frozenset[str]:
        """Return the pools of this host, and of all that share jobs with it."""
        return next(group for group in self.groups if group & {*self.hosts[host].pools})

    def _bearable(self, arrivals: Sequence[Arrivals]) -> list[Arrivals]:
        """Leave the waiting jobs a share of the lanes, however much has come lately."""
        found = []
        for group in self.groups:
            lanes = sum(host.lanes for host in self.hosts if group & {*host.pools})
            mine = [each for each in arrivals if each.line[0] in group and each.per_s > 0]
            wanted = sum(each.per_s * each.seconds for each in mine)
            share = min(1.0, MOST_ARRIVALS * lanes / wanted) if wanted else 1.0
            found += [Arrivals(each.line, each.priority, each.per_s * share, each.seconds) for each in mine]
        return found

    def _arrive(self, now: float, number: int, which: int) -> None:
        each = self.arrivals[which]
        jobs = max(1, int(each.per_s * now / GRAIN))
        # A name like any other, so that the turn comes to it as it would to any other.
        name = sha256(str(number).encode()).hexdigest()
        self._level(each.line, each.priority).add(
            name, _Waiting([Part(jobs, each.seconds)], taken=GRAIN * jobs, counts=False)
        )
        self._expect(now, which, jobs)

    def _expect(self, now: float, which: int, jobs: int) -> None:
        gap = self.dice.gammavariate(jobs, 1 / self.arrivals[which].per_s)
        self._push(now + gap, -1 - which, "")

    def _fill(self, now: float) -> None:
        """Start jobs on all idle lanes that can have one."""
        for n in range(len(self.hosts)):
            while self.idle[n] and (found := self._choose(n)):
                self.idle[n] -= 1
                self._start(n, *found, now)

    def _choose(self, host: int) -> tuple[_Level, str] | None:
        """Return whose job worker.next_job() would take."""
        of_lines = [(line, levels) for line in _lines(self.hosts[host]) if (levels := self.levels[line])]
        priorities = sorted({priority for _, levels in of_lines for priority in levels}, reverse=True)
        for priority in priorities:
            there = [
                (level.served_at, line, level)
                for line, levels in of_lines
                if (level := levels.get(priority)) and level.names
            ]
            for _, _, level in sorted(there, key=lambda each: each[:2]):
                for shop in _in_turn(level):
                    most = self.limits.get(shop, self.limit)
                    if most is None or self.running[shop] < most:
                        return level, shop
        return None

    def _start(self, host: int, level: _Level, shop: str, now: float) -> None:
        waiting = level.waiting[shop]
        part = waiting.parts[waiting.at]
        grain = max(1, min(waiting.taken // GRAIN, self.left // (GRAIN * self.lanes)))
        if not waiting.counts:
            grain = part.jobs
        jobs = min(part.jobs - waiting.done, grain)
        level.served, level.served_at = shop, (now, next(self.numbers))
        if now <= self.known_until[self._group(host)]:
            if waiting.done == 0:
                part.first_start = now
            if waiting.done + jobs == part.jobs and part.first_start is not None:
                part.last_start = now + (jobs - 1) * (part.seconds or 0)
        waiting.done += jobs
        waiting.taken += jobs
        self.left -= jobs * waiting.counts
        self.running[shop] += 1
        if waiting.done == part.jobs:
            waiting.at, waiting.done = waiting.at + 1, 0
            if waiting.at == len(waiting.parts):
                level.remove(shop)
        if part.seconds is None:
            self._doubt(host, now)
        else:
            self._push(now + jobs * part.seconds, host, shop)


def _in_turn(level: _Level) -> Iterator[str]:
    first = bisect_right(level.names, level.served)
    for n in range(len(level.names)):
        yield level.names[(first + n) % len(level.names)]


def _lines(host: Host) -> list[Line]:
    return [(pool, engine) for pool in host.pools for engine in dict.fromkeys(("", host.engine))]


def _groups(hosts: Sequence[Host]) -> list[frozenset[str]]:
    """Return the pools in groups: those of which some host takes both, directly or by way of others."""
    groups: list[frozenset[str]] = []
    for host in hosts:
        near = [group for group in groups if group & {*host.pools}]
        groups = [group for group in groups if group not in near]
        groups.append(frozenset(host.pools).union(*near))
    return groups
