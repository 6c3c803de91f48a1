"""What happens in the server, for everybody who listens; the last events can be had again after a break."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

KEPT = 1000


class Event(NamedTuple):
    """One event."""

    number: int
    name: str
    data: dict[str, Any]


class Events:
    """Published by any thread, heard in the event loop."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._number = 0
        self._lock = threading.Lock()
        self._ears: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._closed = False

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """Tell everybody."""
        with self._lock:
            self._number += 1
            self._events.append(Event(self._number, name, data))
        self._wake()

    def close(self) -> None:
        """Let all listeners end."""
        self._closed = True
        self._wake()

    async def listen(self, after: int | None = None, beat: float = 15.0) -> AsyncIterator[Event | None]:
        """Yield events as they come, and None where there was none for a while.

        Args:
            after: Number of the last event that was heard; None: only what comes from now on. A number of an earlier
                start of the server counts as 0: what is still known is told again.
            beat: Seconds.
        """
        heard = self._number if after is None else after if after <= self._number else 0
        ear = (asyncio.get_running_loop(), asyncio.Event())
        self._ears.add(ear)
        try:
            while not self._closed:
                ear[1].clear()
                with self._lock:
                    new = [event for event in self._events if event.number > heard]
                for event in new:
                    heard = event.number
                    yield event
                if new:
                    continue
                try:
                    await asyncio.wait_for(ear[1].wait(), beat)
                except asyncio.TimeoutError:
                    yield None
        finally:
            self._ears.discard(ear)

    def _wake(self) -> None:
        for loop, ear in list(self._ears):
            if not loop.is_closed():
                loop.call_soon_threadsafe(ear.set)
