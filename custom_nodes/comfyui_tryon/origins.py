"""Which web pages of other sites may call the API from a browser (CORS)."""

import re
from dataclasses import dataclass

ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
ANY_ORIGIN = "*"


@dataclass(frozen=True)
class Origins:
    """The origins that are let in; `ANY_ORIGIN` alone stands for all."""

    names: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "Origins":
        """Reads a list such as "https://shop.example, http://localhost:3000", or "*".

        Raises:
            ValueError: a name in it is no origin.
        """
        names = frozenset(name.strip().lower() for name in text.split(",") if name.strip())
        for name in names:
            if name != ANY_ORIGIN and not ORIGIN.fullmatch(name):
                raise ValueError(f"{name!r} is no origin. Write https://shop.example, without a path, or * for all")
        if ANY_ORIGIN in names and len(names) > 1:
            raise ValueError("* stands for all origins; write it alone")
        return cls(names)

    def allowed(self, origin: str | None) -> str | None:
        """Returns what a browser is told of a page at `origin`, or None if it is not let in."""
        if ANY_ORIGIN in self.names:
            return ANY_ORIGIN
        return origin if origin and origin.lower() in self.names else None
