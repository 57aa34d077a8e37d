"""Where a Redis server is: parsing its URL, and showing it without the password. Pure.

No urllib here: it takes 5 ms of the command line's 150.
"""

from __future__ import annotations

from .errors import BadStoreURL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMS = "redis://[:PASSWORD@]HOST[:PORT][/DB], rediss://... (TLS) or unix://[:PASSWORD@]/PATH[?db=DB]"


class Address:
    """A server's address: ``path`` of a Unix socket, or ``host`` and ``port``; db, user and password (maybe empty)."""

    __slots__ = ("db", "host", "password", "path", "port", "tls", "user")

    def __init__(
        self,
        *,
        path: str = "",
        host: str = "",
        port: int = 6379,
        db: int = 0,
        user: str = "",
        password: str = "",
        tls: bool = False,
    ) -> None:
        self.path, self.host, self.port, self.db = path, host, port, db
        self.user, self.password, self.tls = user, password, tls

    def __str__(self) -> str:
        """The URL without user and password, for messages and logs."""
        return self._url(credentials="")

    def url(self) -> str:
        """The URL with its password; not for messages."""
        return self._url(self._credentials())

    def celery_url(self) -> str:
        """The same server as Celery's broker and result backend name it."""
        if self.path:
            return f"redis+socket://{self._credentials()}{_quote(self.path, '/')}?virtual_host={self.db}"
        return self.url()

    def _url(self, credentials: str) -> str:
        if self.path:
            return f"unix://{credentials}{_quote(self.path, '/')}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{credentials}{host}:{self.port}/{self.db}"

    def _credentials(self) -> str:
        return f"{_quote(self.user)}:{_quote(self.password)}@" if self.user or self.password else ""


def parse_url(url: str) -> Address:
    """The address that ``url`` names. Raises BadStoreURL, which never shows the password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix", "redis+socket"):
        shown = f"{scheme}://..." if separator else "what has no '://'"  # never more: it may hold a password
        raise BadStoreURL(f"{shown} is no URL of a Redis server: expected {_FORMS}")
    rest, _, query = rest.partition("?")
    credentials, _, place = rest.rpartition("@")
    user, _, password = credentials.partition(":")
    options = dict(pair.partition("=")[::2] for pair in query.split("&")) if query else {}
    user, password = _unquote(user), _unquote(password)
    if scheme in ("unix", "redis+socket"):
        if not place.startswith("/"):
            raise BadStoreURL(f"the path of the Unix socket, {place!r}, must begin with '/': expected {_FORMS}")
        return Address(path=_unquote(place), db=_db(options), user=user, password=password)
    host, port, database = _split_place(place)
    db = _db({"db": database, **options})
    return Address(host=host, port=port, db=db, user=user, password=password, tls=scheme == "rediss")


def _split_place(place: str) -> tuple[str, int, str]:
    location, _, database = place.partition("/")
    if location.startswith("["):
        host, _, port = location[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = location.partition(":")
    if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise BadStoreURL(f"{location!r} is no host and port of a Redis server: expected {_FORMS}")
    return host, int(port or 6379), database


def _db(options: Mapping[str, str]) -> int:
    database = options.get("db") or options.get("virtual_host") or "0"
    if not database.isdigit():
        raise BadStoreURL(f"{database!r} is no number of a Redis database: expected {_FORMS}")
    return int(database)


def _unquote(text: str) -> str:
    first, *others = text.split("%")
    if not others:
        return text
    out = bytearray(first.encode())
    for part in others:
        try:
            out += bytes((int(part[:2], 16),)) + part[2:].encode()
        except ValueError:
            raise BadStoreURL("a '%' in a Redis server's URL must be followed by two hexadecimal digits") from None
    return out.decode("utf-8", "surrogateescape")


def _quote(text: str, safe: str = "") -> str:
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or chr(byte) in "-._~" + safe else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
