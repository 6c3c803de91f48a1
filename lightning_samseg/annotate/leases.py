"""Who has which image open: a lease ends a while after the last sign of life of its tab. Needs no torch."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SECONDS = 60.0


@dataclass
class Lease:
    """One image in one tab."""

    tab: str
    author: str
    seen: float


class HeldError(Exception):
    """Another tab has the image."""

    def __init__(self, lease: dict[str, Any]) -> None:
        super().__init__("The image is open elsewhere.")
        self.lease = lease


class Leases:
    """Leases by image, for any number of threads.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._lock = threading.RLock()

    def holder(self, image_id: str) -> dict[str, Any] | None:
        """Tab and author of whoever has an image open."""
        with self._lock:
            lease = self._leases.get(image_id)
        if lease is None or self._clock() - lease.seen > SECONDS:
            return None
        return {"tab": lease.tab, "author": lease.author}

    def take(self, image_id: str, tab: str, author: str, take_over: bool = False) -> bool:
        """Give an image to a tab, which leaves the one it had.

        Returns:
            Whether another tab lost it.

        Raises:
            HeldError: If another has it, and is not to be taken over.
        """
        with self._lock:
            holder = self.holder(image_id)
            other = holder is not None and holder["tab"] != tab
            if other and not take_over:
                assert holder is not None
                raise HeldError(holder)
            for each in [name for name, lease in self._leases.items() if lease.tab == tab]:
                del self._leases[each]
            self._leases[image_id] = Lease(tab, author, self._clock())
            return other

    def sign_of_life(self, tab: str) -> None:
        """Keep what a tab has."""
        with self._lock:
            for image_id, lease in self._leases.items():
                if lease.tab == tab and self.holder(image_id) is not None:
                    lease.seen = self._clock()

    def free_for(self, image_id: str, tab: str | None) -> bool:
        """Whether nobody else has the image."""
        holder = self.holder(image_id)
        return holder is None or holder["tab"] == tab
