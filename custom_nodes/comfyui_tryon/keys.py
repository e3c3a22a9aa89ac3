"""The keys that callers must send, and whose they are."""

import hmac
import os
import re
from collections.abc import Iterable, Mapping

ANYBODY = ""
"""The caller where no key is asked for."""

NAMED = re.compile(r"([A-Za-z0-9._-]{1,64}):(.*)", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LONGEST = 4096  # aiohttp refuses headers of twice that


def is_name(caller: str) -> bool:
    """Says whether a caller has a name, which no other caller has."""
    return caller != ANYBODY and not caller.startswith("#")


class Keys:
    """Tells callers by their keys; without keys everybody is `ANYBODY`.

    Callers without a name are told apart by their key's place in the list, written so that no name can be the same.
    """

    def __init__(self, callers: Mapping[bytes, str]) -> None:
        self._callers = dict(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """Reads `KEY` or `NAME:KEY`, separated by commas.

        Raises:
            ValueError: a key that no caller could send, or that two callers share. The message shows none of it.
        """
        callers: dict[bytes, str] = {}
        for number, part in enumerate(text.split(","), 1):
            named = NAMED.fullmatch(part)
            caller, key = (named[1], named[2]) if named else (f"#{number}", part)
            where = f"key {number}"
            if not key.strip():
                raise ValueError(f"{where} is empty: write KEY or NAME:KEY, separated by commas")
            if CONTROL.search(key):
                raise ValueError(f"{where} has a line end or another control character, which no header can carry")
            if part != part.strip() or key != key.strip():
                raise ValueError(f"{where} begins or ends with white space, which no header can carry")
            if len(key) > LONGEST:
                raise ValueError(f"{where} is longer than {LONGEST} characters, more than a header can carry")
            if callers.setdefault(os.fsencode(key), caller) != caller:
                raise ValueError(f"{where} is another caller's too")
        return cls(callers)

    def caller(self, given: Iterable[str]) -> str | None:
        """Returns whose key is among the values of these headers, or None; takes the same time whichever fits."""
        if not self._callers:
            return ANYBODY
        found = None
        # The server decoded the bytes that were sent in the same way; white space around them is no part of a header.
        values = [value.strip(" \t").encode("utf-8", "surrogateescape") for value in given]
        for key, caller in self._callers.items():
            for value in values:
                if hmac.compare_digest(value, key):
                    found = caller
        return found
