"""Which hosts this server may connect to for a client, and which of a client's URLs lead there."""

import re
from dataclasses import dataclass
from urllib.parse import quote

import idna
from yarl import URL

HTTPS_PORT = 443
MAX_URL = 4096
# White space and control characters, and what some parsers take for a slash.
CONFUSING = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
ASCII = "".join(map(chr, range(128)))  # is sent as it came, since a signature may be over it
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# The last label has a letter first: everything that a parser could take for an address ends in a number.
HOST_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
ENTRY = re.compile(r"(?P<wild>\*\.)?(?P<host>[^:]*)(?::(?P<port>[0-9]{1,5}))?")


class UrlRefused(ValueError):
    """A client's URL is not fetched; the message continues a sentence that begins with the field's name."""


@dataclass(frozen=True)
class UrlHosts:
    """The hosts that clients' URLs may name.

    Attributes:
        entries: for each whether it stands for the hosts below it (`*.`), the name in ASCII, and the port.
    """

    entries: frozenset[tuple[bool, str, int]]

    @classmethod
    def parse(cls, text: str) -> "UrlHosts":
        """Reads a list such as "cdn.example.com, *.shop.example, files.example:8443".

        Raises:
            ValueError: an entry is no name of a host.
        """
        return cls(frozenset(_entry(part.strip()) for part in text.split(",") if part.strip()))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def url(self, text: str) -> URL:
        """Returns the URL that `text` is, as it is to be requested: its host in ASCII, path and query as they came.

        Raises:
            UrlRefused: it is not https, has no name of a host, or one that is not allowed.
        """
        if not self:
            raise UrlRefused("is a URL, and TRYON_URL_HOSTS, the hosts this server may connect to, is not set")
        url = _parsed(text)
        host, port = str(url.raw_host), int(url.port or 0)
        if not self._allow(host, port):
            shown = host if port == HTTPS_PORT else f"{host}:{port}"
            raise UrlRefused(f"is at {shown}, which is not in TRYON_URL_HOSTS, the hosts this server may connect to")
        return url

    def redirected(self, url: URL, location: str) -> URL:
        """Returns where a redirect from `url` leads.

        Raises:
            UrlRefused: as `url` does; relative ones are those of `url`.
        """
        if ABSOLUTE.match(location) or CONFUSING.search(location):
            return self.url(location)
        try:
            return self.url(str(url.join(URL(location, encoded=True))))
        except UrlRefused:
            raise
        except ValueError:
            raise UrlRefused("is not a valid URL") from None

    def _allow(self, host: str, port: int) -> bool:
        above = [host[at + 1 :] for at, letter in enumerate(host) if letter == "."]
        return (False, host, port) in self.entries or any((True, name, port) in self.entries for name in above)


def ascii_host(name: str) -> str | None:
    """Returns the name of a host in lower case and ASCII (punycode), or None if it is an address or no name at all."""
    try:
        host = idna.encode(name, uts46=True).decode() if not name.isascii() else name.lower()
    except (UnicodeError, ValueError):
        return None
    return host if HOST_NAME.fullmatch(host) else None


def _entry(part: str) -> tuple[bool, str, int]:
    found = ENTRY.fullmatch(part)
    host = ascii_host(found["host"]) if found else None
    port = int(found["port"] or HTTPS_PORT) if found else 0
    if found is None or host is None or not 0 < port < 65_536:
        raise ValueError(
            f"{part!r} is no host. Write names such as cdn.example.com, *.example.com or files.example.com:8443, "
            "without https:// and without a path, separated by commas"
        )
    return bool(found["wild"]), host, port


def _parsed(text: str) -> URL:
    text = text.strip()
    if len(text) > MAX_URL:
        raise UrlRefused(f"is a URL of more than {MAX_URL} characters")
    if CONFUSING.search(text):
        raise UrlRefused("is a URL with a space, a control character or a backslash in it")
    if text[:8].lower() != "https://":
        raise UrlRefused("is a URL that does not begin with https://")
    try:
        url = URL(text, encoded=True)
        given, port = url.raw_host or "", url.port
        path, query = (quote(part, safe=ASCII) for part in (url.raw_path, url.raw_query_string))
        secret = url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority
    except (ValueError, TypeError):
        raise UrlRefused("is not a valid URL") from None
    if secret:
        raise UrlRefused("is a URL with a user name or a password")
    host = ascii_host(given)
    if host is None or not port:
        raise UrlRefused("is a URL without a host's full name; addresses are not accepted, nor a dot at the end")
    return URL.build(scheme="https", host=host, port=port, path=path or "/", query_string=query, encoded=True)
