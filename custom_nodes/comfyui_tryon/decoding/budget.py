"""The memory that requests may hold in decoded images."""

import asyncio
from collections import deque
from types import TracebackType

from ..images import Header


def cost(header: Header, size: int) -> int:
    """Returns the bytes that decoding a file of `size` bytes takes in this process and in the one that decodes."""
    # The pixels are copied once from the memory that is shared with the process, and so is the file.
    return header.decoder_bytes + header.pixel_bytes + 2 * size


class Budget:
    """Lends shares of `total` bytes, first come first served."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def share(self) -> "Share":
        return Share(self)

    async def take(self, size: int) -> None:
        if not self._waiting and self.taken + size <= self.total:
            self.taken += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # the turn may have come and not been taken; otherwise those behind may fit now
            self.give_back(0 if turn.cancelled() else size)
            raise

    def give_back(self, size: int) -> None:
        self.taken -= size
        while self._waiting:
            next_size, turn = self._waiting[0]
            if not turn.cancelled():  # which it is before its request notices
                if self.taken + next_size > self.total:
                    break
                self.taken += next_size
                turn.set_result(None)
            self._waiting.popleft()


class Share:
    """One request's part of the budget, given back at the end of the block."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0

    async def take(self, size: int) -> None:
        """Waits until `size` bytes are free. Call it once: two requests that hold a part could wait for each other."""
        await self._budget.take(size)
        self._size = size

    def shrink(self, size: int) -> None:
        self._budget.give_back(self._size - size)
        self._size = size

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shrink(0)
