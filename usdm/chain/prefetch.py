"""Stages that overlap: what one makes in a thread of its own, the next one takes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL = 0.1  # seconds; only while a stage is being stopped


class _End:
    """After the last item: with what the stage returned, or with what it raised."""

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error


def prefetch(items: Generator[Item, None, Result], size: int) -> Generator[Item, None, Result]:
    """The same items and result, made in another thread, at most `size` items before they are asked for.

    What `items` raises is raised here. Closing this generator waits for the item that is being made, closes `items`
    and ends the thread.
    """
    made: Queue[Any] = Queue(size)
    stop = Event()

    def work() -> None:
        end = _End()
        try:
            with closing(items):
                while not stop.is_set():
                    made.put(next(items))
        except StopIteration as finished:
            end = _End(finished.value)
        except BaseException as error:  # whatever it is, it is raised where the items are used
            end = _End(error=error)
        finally:
            made.put(end)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
        result: Result = item.result
        return result
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for room
            with suppress(Empty):
                made.get(timeout=POLL)
