"""The book of licence slots and the admission in front of it, step by step; nights are simulated elsewhere."""

from datetime import timedelta
from itertools import count

from erpsync.core.clock import ManualClock
from erpsync.core.event import silent
from erpsync.core.run import Run, RunTrigger
from erpsync.core.session import Session
from erpsync.erpnet.slots import SlotBook
from erpsync.running.admission import Admission

NUMBERS = count()


class Desk:
    """An admission over one instance."""

    def __init__(self, slots: int = 1) -> None:
        self.clock = ManualClock()
        self.book = SlotBook("acme", slots, self.clock, silent)
        self.admission = Admission(10, {}, {"pool": 1}, {"acme": self.book})

    def put(self, identity: str, pool: str | None = None, instance: str = "acme") -> Run:
        name = f"r{next(NUMBERS):04}"
        now = self.clock.now()
        run = Run(name, name, "at", "p", RunTrigger.SCHEDULE, now, instance=instance, identity=identity)
        self.admission.put(run, pool)
        return run

    def take(self) -> list[str]:
        return [run.identity or "" for run in self.admission.take()]

    def session(self, identity: str, minutes: float = 0.0) -> Session:
        """One that is open, used `minutes` ago."""
        at = self.clock.now() - timedelta(minutes=minutes)
        return Session("acme", identity, f"tok_{identity}", at, at)

    def wait(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))


def test_a_run_reserves_the_slot_of_its_identity() -> None:
    """Runs of one identity share a slot; another's wait for it, in the order in which they came."""
    desk = Desk()
    first, second = desk.put("a"), desk.put("a")
    for identity in ("b", "c"):
        desk.put(identity)
    assert desk.take() == ["a", "a"]
    assert desk.book.use().waiting == ("b", "c")
    desk.admission.release(first.id)
    assert desk.take() == []
    desk.admission.release(second.id)  # it opened no session, so nothing is held any more
    assert desk.take() == ["b"]
    assert desk.book.use().waiting == ("c",)


def test_a_session_holds_its_slot_to_the_end_and_a_margin() -> None:
    """The next identity gets the slot 30 s after the computed end, its own identity at any time before."""
    desk = Desk()
    desk.book.load([desk.session("a", minutes=5)])
    desk.put("b")
    assert desk.take() == []
    assert desk.admission.awaits_slot() == 15 * 60 + 1
    desk.put("a")
    assert desk.take() == ["a"]
    desk.admission.release(next(iter(desk.admission._holders)))
    desk.wait(minutes=15, seconds=29)
    assert desk.take() == []
    desk.wait(seconds=1)
    assert desk.take() == ["b"]


def test_who_waits_for_its_own_earlier_session_is_told_so() -> None:
    """A session that no token at hand can use is an earlier one to its identity; to others it is the identity's."""
    desk = Desk()
    desk.book.load([desk.session("night")])
    until = f"{desk.clock.now() + timedelta(minutes=20):%H:%M:%S} UTC"
    assert desk.book.explanation("night").endswith(f"held by an earlier session of night until {until}")
    assert desk.book.explanation("day").endswith(f"held by night until {until}")


def test_a_clock_set_back_blocks_no_slot_for_hours() -> None:
    """What the ledger has of a later time is over when a session of now would be: after 20 minutes and one."""
    for minutes in (-5, -600):
        desk = Desk()
        desk.book.load([desk.session("a", minutes=minutes)])
        desk.put("b")
        desk.wait(minutes=20, seconds=89)
        assert desk.take() == []
        desk.wait(seconds=1)
        assert desk.take() == ["b"]


def test_nothing_new_of_the_holder_starts_after_its_turn_while_others_wait() -> None:
    """An hour is a turn: then the one that waits is next, however much work the holder has."""
    desk = Desk()
    running = desk.put("a")
    assert desk.take() == ["a"]
    desk.put("b")
    desk.wait(minutes=59)
    desk.put("a")
    assert desk.take() == ["a"]
    desk.wait(minutes=2)
    late = desk.put("a")
    assert desk.take() == []
    assert (desk.admission.lacks(late), desk.book.use().waiting) == ("licence", ("b", "a"))
    for run_id in list(desk.admission._holders):
        desk.admission.release(run_id)
    assert running.id not in desk.admission._holders
    assert desk.take() == ["b"]


def test_one_that_gives_up_lets_the_others_through() -> None:
    """A run that is withdrawn keeps no place in the queue."""
    desk = Desk()
    desk.put("a")
    assert desk.take() == ["a"]
    waiting = desk.put("b")
    desk.take()
    desk.wait(minutes=61)
    desk.put("a")
    assert desk.take() == []
    assert desk.admission.withdraw(waiting.id)
    assert desk.take() == ["a"]
    assert not desk.book.is_awaited


def test_only_instances_with_slots_are_counted() -> None:
    """Runs at servers without sessions need no slot."""
    desk = Desk()
    for identity in ("a", "b", "c"):
        desk.put(identity, instance="other")
    assert desk.take() == ["a", "b", "c"]


def test_more_slots_hold_more_identities() -> None:
    """With two slots two identities run, and what is reserved without a session counts as in use."""
    desk = Desk(slots=2)
    for identity in ("a", "b", "c"):
        desk.put(identity)
    assert desk.take() == ["a", "b"]
    use = desk.book.use()
    assert (use.in_use, use.reserved, use.waiting) == (2, ("a", "b"), ("c",))
