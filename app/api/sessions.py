"""Who is logged in to the page: a signed cookie, as an EventSource can send no key.

Nothing is kept: every replica with the same keys takes the cookie, also after a restart, and none
does once the key is another one.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from fastapi import Request, Response

from app.errors import Forbidden
from app.settings import Settings

LIFE_S = 12 * 3_600
_SAFE_METHODS = ("GET", "HEAD")


class Sessions:
    """Signs cookies with what is derived from the operators' key, so that none has it in it."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.admin_key or settings.api_key
        self.key = None if secret is None else secret.get_secret_value()
        if self.key is not None:
            # Slow on purpose: whoever gets hold of a cookie shall not guess a short key from it.
            self._secret = hashlib.scrypt(
                self.key.encode(), salt=b"sluice session", n=2**14, r=8, p=1, dklen=32
            )
            # Browsers do not tell the ports of a host apart: two services need two names.
            self.cookie = f"sluice_{self._sign('name')[:12]}"

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), "sha256").hexdigest()

    def begin(self, response: Response, now_s: int, *, is_https: bool) -> None:
        """Give the cookie to who has shown the operators' key."""
        expires = str(now_s + LIFE_S)
        self._set(response, f"{expires}.{self._sign(expires)}", LIFE_S, is_https=is_https)

    def end(self, response: Response, *, is_https: bool) -> None:
        """Take the cookie back."""
        self._set(response, "", 0, is_https=is_https)

    def _set(self, response: Response, value: str, life_s: int, *, is_https: bool) -> None:
        response.set_cookie(
            self.cookie, value, life_s, httponly=True, samesite="strict", secure=is_https
        )

    def key_of(self, request: Request, now_s: float) -> str | None:
        """Return the key that a request's cookie stands for; None without a valid one.

        Raises Forbidden where it would change something, and another site's page may have sent it.
        """
        if self.key is None or not self._is_valid(request.cookies.get(self.cookie, ""), now_s):
            return None
        if request.method not in _SAFE_METHODS and not is_same_origin(request):
            raise Forbidden("a page of another site may not act with this session")
        return self.key

    def _is_valid(self, cookie: str, now_s: float) -> bool:
        expires, _, signature = cookie.partition(".")
        is_ours = hmac.compare_digest(signature.encode(), self._sign(expires).encode())
        return is_ours and now_s < int(expires)


def is_same_origin(request: Request) -> bool:
    """Tell whether a browser says that the page which asks is one of this host.

    Without the scheme: a proxy may speak another one.
    """
    origin = urlsplit(request.headers.get("origin", ""))
    return bool(origin.netloc) and origin.netloc == request.headers.get("host")
