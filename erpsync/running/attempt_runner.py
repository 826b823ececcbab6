"""One attempt, from its durable beginning through the plugin to the verdict on it."""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from erpsync.core.clock import Clock
from erpsync.core.errors import PluginLoadError, StoreError
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Attempt, Run, State
from erpsync.running.attempt import LiveAttempt
from erpsync.running.channel import Done
from erpsync.running.escalation import Escalation
from erpsync.running.events import RunEvents
from erpsync.running.fault import Fault
from erpsync.running.patience import PatientWriter
from erpsync.running.plugin_host import PluginHost
from erpsync.running.preparation import Preparation
from erpsync.running.reporter import RunReporter
from erpsync.running.verdict import GENTLE, Ending, judge
from erpsync.store.ledger import Begin, End, begin_attempts
from erpsync.store.state import Store


class NotBegunError(Exception):
    """The beginning of an attempt is not durable; nothing was started."""


class AttemptRunner:
    """Conducts attempts for one `owner` of the state; `patient` writes beginnings where a person waits for them."""

    def __init__(
        self,
        *,
        owner: str,
        store: Store,
        patient: PatientWriter | None,
        host: PluginHost,
        preparation: Preparation,
        escalation: Escalation,
        events: RunEvents,
        clock: Clock,
        redactor: Redactor,
        jitter: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._store = store
        self._patient = patient
        self._host = host
        self._preparation = preparation
        self._escalation = escalation
        self._events = events
        self._clock = clock
        self._redactor = redactor
        self._jitter = jitter

    async def begin(self, attempt: LiveAttempt) -> bool:
        """Make the beginning durable; False where the run has ended meanwhile.

        Raises:
            NotBegunError: the state refuses for now. Until it takes the beginning a window may close, so the run
                does not keep its slot for that.
        """
        begun = await self._begun(Begin(attempt.run, self._owner, self._clock.now()), attempt.run)
        if begun is None:
            return False
        attempt.run = replace(
            attempt.run,
            state=State.RUNNING,
            waiting_for=None,
            reason=None,
            attempts=begun.number,
            started_at=attempt.run.started_at or begun.started_at,
            owner=self._owner,
        )
        self._events.started(attempt.run)
        return True

    async def _begun(self, begin: Begin, run: Run) -> Attempt | None:
        if self._patient is not None:
            attempt: Attempt | None = await self._patient.write(begin_attempts, begin, run)
            return attempt
        try:
            self._store.require_place()
            return await self._store.write(begin_attempts, begin)
        except StoreError as error:
            if not error.retryable:
                raise
            self._events.unwritten(run, error)
            raise NotBegunError from error

    async def perform(self, attempt: LiveAttempt, licence_waits: int) -> End:
        """Enter the plugin and see the attempt to its verdict; `licence_waits` counts the run's waits for a slot."""
        self._escalation.limit(attempt)
        attempt.start(self._host.work(attempt))
        answer = await attempt.answer()
        self._escalation.over(attempt)
        answer = await self._host.put_letters_away(attempt, answer)
        ending = attempt.ending(self._clean(answer))
        if isinstance(ending.answer, Fault):
            self._log_fault(attempt.reporter, ending.answer, ending)
        cut_off = ending.cause in GENTLE or (isinstance(answer, Fault) and answer.kind == "lost")
        return judge(
            attempt.job,
            attempt.run,
            ending,
            repeatable=cut_off and (not attempt.was_entered or self._repeatable(attempt.job)),
            now=self._clock.now(),
            jitter=self._jitter,
            licence_waits=licence_waits,
        )

    def _clean(self, answer: Done | Fault) -> Done | Fault:
        """Without secrets, and then cut short, before anything is kept of it; a trace is for the run's log."""
        short = self._redactor.shortened
        if isinstance(answer, Done) and self._redactor.holds(answer.cursor or ""):
            hint = "stage what the next run needs to begin, never what it needs to sign in"
            return Fault(
                "error", "ValueError", "the cursor is a secret, and cursors are kept in the state", hint
            )
        if isinstance(answer, Done):
            return msgspec.structs.replace(answer, note=short(answer.note))
        words = {name: short(getattr(answer, name)) for name in ("type", "message", "hint")}
        words["trace"] = self._redactor(answer.trace)
        return msgspec.structs.replace(answer, **words)

    def _log_fault(self, reporter: RunReporter, fault: Fault, ending: Ending) -> None:
        if fault.kind == "skip":
            return
        if ending.cause:  # we ended it; what it raised by that is nobody's fault
            reporter.log("warning", "attempt.ended", {"cause": ending.cause_text})
            return
        words = {"type": fault.type, "message": fault.message, "hint": fault.hint}
        words |= {"trace": fault.trace}
        reporter.log("error", "attempt.failed", {name: word for name, word in words.items() if word})

    def _repeatable(self, job: Job) -> bool:
        try:
            return self._preparation.repeatable(job)
        except PluginLoadError:
            return True  # it has not been entered: nothing was done that could be done twice
