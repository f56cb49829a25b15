"""The one model behind all sessions: a thread that hears every one of them and writes their replies in one batch.

Each session has a queue of jobs. The thread takes one job of each in turn, then lets every reply on the batch write
one id, and so on: nobody waits for another's whole reply, and what is cancelled leaves before its next id. What goes
wrong with one session's job or reply is told to that session alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Protocol

from usdm.chain import SpokenDialogPipeline
from usdm.chain.synthesis_stages import on_own_stream
from usdm.lm import StageProgram, TokenStream
from usdm.lm.batch import ContinuousBatch, Progress
from usdm.types import InputError

logger = logging.getLogger(__name__)

Job = Callable[[], None]


class Owner(Protocol):
    """Whose jobs they are."""

    def fault(self, message: str, is_defect: bool) -> None:
        """A job went wrong."""
        ...

    def let_go(self) -> None:
        """It was closed: nothing more will be done for it. In the engine's thread."""
        ...


class Writing(Protocol):
    """Something that is written on the batch."""

    def __hash__(self) -> int: ...

    @property
    def owner(self) -> Owner: ...

    @property
    def stream(self) -> TokenStream:
        """Which has read its beginning ahead."""
        ...

    def program(self) -> StageProgram[Any]:
        """To be played at once. Raises InputError if it cannot be."""
        ...

    def take(self, progress: Progress) -> None:
        """What the program has done."""
        ...

    def fail(self, message: str, is_defect: bool) -> None:
        """Nothing more will come."""
        ...


class Engine:
    """Use it as a context manager: the thread lives as long."""

    def __init__(self, pipeline: SpokenDialogPipeline, capacity: int) -> None:
        """`capacity`: replies that are written at once; more of them wait. Raises InputError for less than 1."""
        self.pipeline = pipeline
        for name in pipeline.voices:  # read once, and not when somebody waits for the first reply in it
            pipeline.speaker(voice=name)
        self._first_stream = TokenStream(pipeline.parts.llm)
        self._batch = ContinuousBatch(pipeline.parts.llm, capacity)
        self._written: set[Writing] = set()
        self._waiting: deque[Writing] = deque()  # for room on the batch
        self._jobs: dict[Owner, deque[Job]] = {}  # under the lock
        self._changed = Condition()
        self._ends = False
        self._thread = Thread(target=self._work, name="usdm-engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    @property
    def num_written(self) -> int:
        """Replies and transcripts on the batch, or waiting for room there."""
        return len(self._written) + len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stream(self) -> TokenStream:
        """A new one, for jobs."""
        return TokenStream(self.pipeline.parts.llm, beside=self._first_stream)

    def num_jobs(self, owner: Owner) -> int:
        """That wait."""
        return len(self._jobs.get(owner, ()))

    def post(self, owner: Owner, job: Job) -> None:
        """Let the engine's thread do a job after those before it."""
        with self._changed:
            self._jobs.setdefault(owner, deque()).append(job)
            self._changed.notify()

    def close(self, owner: Owner) -> None:
        """Drop all that the owner still wants."""
        with self._changed:
            self._jobs[owner] = deque([lambda: self._forget(owner)])
            self._changed.notify()

    # For jobs, in the engine's thread

    @property
    def is_idle(self) -> bool:
        """Whether nobody is being answered."""
        return not self._written and not self._waiting

    def begin(self, writing: Writing) -> None:
        """Write it as soon as there is room."""
        self._waiting.append(writing)

    def drop(self, writing: Writing) -> None:
        """Write no more of it."""
        self._batch.leave(writing)
        self._written.discard(writing)
        if writing in self._waiting:
            self._waiting.remove(writing)

    # The thread

    def _work(self) -> None:
        with on_own_stream(self.pipeline):
            while self._wait():
                self._do_jobs()
                while self._waiting and self._batch.has_room:
                    self._enter(self._waiting.popleft())
                if self._batch.is_busy:
                    self._step()

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while not (self._ends or self._batch.is_busy or self._waiting or any(self._jobs.values())):
                self._changed.wait()
            return not self._ends

    def _do_jobs(self) -> None:
        """One of each owner. A function of its own, so that what it has done is let go of before the thread waits."""
        with self._changed:
            chosen = [(owner, jobs.popleft()) for owner, jobs in self._jobs.items() if jobs]
        for owner, job in chosen:
            self._guarded(job, owner.fault)

    def _enter(self, writing: Writing) -> None:
        def enter() -> None:
            self._written.add(writing)
            ended = self._batch.enter(writing, writing.program(), writing.stream)
            if ended is not None:
                self._written.discard(writing)
                writing.take(ended)

        self._guarded_writing(writing, enter)

    def _step(self) -> None:
        try:
            progresses = self._batch.step()
        except Exception as error:  # of the model itself: what is on the batch is lost, the server is not
            logger.exception("a step of the language model failed")
            self._batch.clear()
            lost, self._written = self._written, set()
            for writing in lost:
                self._guarded(partial(writing.fail, defect(error), True), writing.owner.fault)
            return
        for progress in progresses:
            self._guarded_writing(progress.key, partial(progress.key.take, progress))
            if progress.ended:
                self._written.discard(progress.key)

    def _guarded_writing(self, writing: Writing, work: Job) -> None:
        """What goes wrong ends this one."""

        def fail(message: str, is_defect: bool) -> None:
            self.drop(writing)
            writing.fail(message, is_defect)

        self._guarded(work, fail)

    def _guarded(self, work: Job, fail: Callable[[str, bool], None]) -> None:
        try:
            work()
        except InputError as error:
            fail(str(error), False)
        except Exception as error:
            logger.exception("a session's work failed")
            fail(defect(error), True)

    def _forget(self, owner: Owner) -> None:
        for writing in [*self._written, *self._waiting]:
            if writing.owner is owner:
                self.drop(writing)
        with self._changed:
            self._jobs.pop(owner, None)
        owner.let_go()


def defect(error: Exception) -> str:
    return f"something went wrong in the server ({type(error).__name__}); its log has the details"
