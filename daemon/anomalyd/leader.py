"""Leadership: of several daemons on one database, one evaluates and delivers, the others stand by.

A lease row with a fencing number decides. The number goes into every commit and every claim, so a leader that was
paused past its lease and wakes up writes nothing and sends nothing. A leader that ends in order gives the lease back;
one that was killed is succeeded when its lease runs out.
"""

from __future__ import annotations

import os
import socket
import uuid

from anomalyd.errors import StoreError
from anomalyd.logs import get_logger
from anomalyd.records import Fence
from anomalyd.store import Store

LEASE = "leader"
TTL_MS = 10_000
RENEW_S = 3.0

log = get_logger("leader")


class Leadership:
    """One daemon's share in the lease; ``fence`` is there while it leads."""

    def __init__(self, store: Store):
        self._store = store
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.fence: Fence | None = None

    @property
    def leading(self) -> bool:
        return self.fence is not None

    def step(self, now: int) -> bool:
        """Renew the lease or try to get it; return whether this daemon has just become the leader.

        Where the store does not answer, leadership is given up: in doubt somebody else has it.
        """
        try:
            if self.fence is not None:
                if self._store.renew_lease(self.fence, now, TTL_MS):
                    return False
                log.warning("another daemon has taken over; standing by")
                self.fence = None
            self.fence = self._store.acquire_lease(LEASE, self._owner, now, TTL_MS)
        except StoreError as error:
            if self.fence is not None:
                log.warning("leadership given up, the database does not answer", reason=error.reason)
            self.fence = None
        return self.fence is not None

    def lost(self) -> None:
        """A commit was refused because of the fence."""
        if self.fence is not None:
            log.warning("another daemon has taken over; standing by")
        self.fence = None

    def release(self) -> None:
        """Give the lease back, so that a successor need not wait."""
        if self.fence is None:
            return
        try:
            self._store.release_lease(self.fence)
        except StoreError as error:
            log.warning("lease not given back; it runs out by itself", reason=error.reason)
        self.fence = None
