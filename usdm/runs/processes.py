"""Tasks in several processes. One that dies ends the run with a message, and none outlives the run, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Worker = Callable[[Task], Result]
MakeWorker = Callable[[int], Worker[Task, Result]]


def in_processes(make: MakeWorker[Task, Result], tasks: Sequence[Task], processes: int) -> Iterator[Result]:
    """What a worker gives for each task, in the order in which they end.

    Args:
        make: a worker from the number of its process, 0 and up; called once in each process, at its first task. More
            processes than one need it by name.
        processes: one is this one, with all its threads; of several each has one thread.

    Raises:
        ChildProcessError: a process was killed. What others were working on is finished first.
    """
    if not tasks:
        return
    if processes == 1:
        yield from map(make(0), tasks)
        return
    context = multiprocessing.get_context("spawn")
    started = (make, context.Value("i", 0))
    with ProcessPoolExecutor(min(processes, len(tasks)), context, _start, started) as pool:
        futures = [pool.submit(_work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"one of {processes} processes was killed, as the system does when memory ends: what is finished is "
                "kept, so give the same command again, with fewer processes or smaller batches"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_make: MakeWorker[Any, Any]
_number: int
_worker: Worker[Any, Any] | None = None


def _start(make: MakeWorker[Any, Any], started: Any) -> None:
    global _make, _number
    with started.get_lock():
        _make, _number = make, started.value
        started.value += 1
    os.environ["OMP_NUM_THREADS"] = "1"  # what is imported later takes it from here
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(task: Any) -> Any:
    global _worker
    if _worker is None:
        _worker = _make(_number)
    return _worker(task)


def _end_with_parent() -> None:
    """A pool's process would wait for ever for the next task of a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
