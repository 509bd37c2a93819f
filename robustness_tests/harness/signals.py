"""Interrupts and time limits. Imports no torch.

A run that is stopped finishes its batch, and reports what it has. Ctrl-C once finishes the batch that is being
measured, so that it is stored; a second one stops at once. SIGTERM, which a CI sends when it cancels a job, counts as
Ctrl-C.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from robustness_tests.harness.run import IN_USE

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TERMINATED = pytest.StashKey[object]()
"""The handler of SIGTERM from before the run."""


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM stop a run as Ctrl-C does, with reports, unless somebody else handles it."""
    if not config.stash[IN_USE] or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        config.stash[TERMINATED] = signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Restore the handler."""
    if TERMINATED in config.stash:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def to_the_end(say: Callable[[str], None]) -> Iterator[None]:
    """Postpone a first interrupt to the end of the block; a second one stops at once.

    Raises:
        KeyboardInterrupt: at the end of the block, or at the second interrupt.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = 0

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            signal.default_int_handler(number, frame)
        say("interrupted: this batch is measured to its end and stored; once more to stop at once")

    ours = [number for number, handler in handlers.items() if handler is signal.default_int_handler]
    for number in ours:
        signal.signal(number, interrupted)
    try:
        yield
    except Exception as error:
        if interrupts:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number in ours:
            signal.signal(number, signal.default_int_handler)
    if interrupts:
        raise KeyboardInterrupt


class BatchTimeoutError(Exception):
    """A batch took longer than `--timeout-per-batch`."""


@contextmanager
def at_most(seconds: float | None, what: str) -> Iterator[None]:
    """End the block after a time, in the main thread; None for no limit.

    Raises:
        BatchTimeoutError: as soon as the interpreter runs again after the time.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(_number: int, _frame: FrameType | None) -> None:
        raise BatchTimeoutError(
            f"{what} took longer than {seconds:g} s: raise --timeout-per-batch, or lower --batch-size"
        )

    handler = signal.signal(signal.SIGALRM, over)
    start = time.monotonic()
    # Another plugin may have set a timer: it goes on afterwards.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - start)), interval)
