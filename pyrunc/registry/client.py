# SPDX-License-Identifier: Apache-2.0
"""HTTP to one endpoint of a registry: authentication, redirects, retries, time limits.

urllib3 does HTTP and TLS.  Redirects are followed here and not there, so that no credential leaves
for another host, and nothing that began with HTTPS ends with HTTP.
"""

from __future__ import annotations

import json
import random
import re
import ssl
import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, final
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from pyrunc._version import __version__
from pyrunc.errors import RegistryError, errno_text

from . import auth, outward
from .proxies import proxy_for
from .reference import DOCKER_HUB
from .tokens import check_realm, may_have_credentials, parse_challenges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import BaseHTTPResponse

    from .hosts import Endpoint

    Body = bytes | Callable[[], Any] | None

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5
_CONNECT_TIMEOUT = 15.0
_MAX_REDIRECTS = 8
_MAX_ERROR = 64 << 10
_MAX_WAIT = 30.0
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_LEFT_EARLY = 5.0  # seconds before its end that a token is no longer used


class Unreachable(RegistryError):
    """No answer: another endpoint may have one."""


@final
class Session:
    """Requests to one endpoint."""

    def __init__(self, endpoint: Endpoint, registry: str, *, timeout: float = TIMEOUT,
                 credentials: auth.Credentials | None = None) -> None:
        self.endpoint = endpoint
        self.registry = registry
        self.scheme = "" if len(endpoint.schemes) > 1 else endpoint.schemes[0]
        self.timeout = timeout
        self._given = credentials
        self._credentials: auth.Credentials | None = None
        self._looked = False
        self._tokens: dict[str, tuple[str, float]] = {}  # scope -> the header, until when
        self._basic = False
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}

    @property
    def where(self) -> str:
        """The registry and the repository, for messages; a mirror by its own name."""
        endpoint = self.endpoint
        host = endpoint.host if endpoint.mirror else self.registry
        return f"{host}/{endpoint.repository}" if endpoint.repository else host

    def url(self, path: str) -> str:
        """`path` is below the repository where there is one: `manifests/latest`."""
        repository = f"/{self.endpoint.repository}" if self.endpoint.repository else ""
        return f"{self._scheme()}://{self.endpoint.host}{self.endpoint.base}{repository}/{path}"

    def _scheme(self) -> str:
        """https, or for a registry that may also be spoken to in plain HTTP whichever it answers."""
        if not self.scheme:
            with self._lock:
                if not self.scheme:
                    self.scheme = self._probe()
        return self.scheme

    def _probe(self) -> str:
        try:
            response = self._send("GET", f"https://{self.endpoint.host}{self.endpoint.base}/", {}, None)
            response.close()
            return "https"
        except HTTPError as error:
            # A server of the other kind, or none at all: with a certificate that is not trusted it is HTTPS.
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self.unreachable(error) from None
        return "http"

    # One request

    def request(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body = None,
                actions: str = "pull", accept: tuple[int, ...] = (200,), what: str = "",
                attempts: int = ATTEMPTS, extra_scope: str = "") -> BaseHTTPResponse:
        """Send it until there is an answer among `accept`; the caller closes (or reads to the end) the response.

        `path` may be a whole URL, as a Location is.  `body` is bytes or a function that opens it anew.
        Raises RegistryError, Unreachable when no answer came.
        """
        url = path if "://" in path else self.url(path)
        scopes = [f"repository:{self.endpoint.repository}:{actions}"] if self.endpoint.repository else []
        scopes += [extra_scope] if extra_scope else []
        challenged = 0
        attempt = 1
        while True:
            try:
                sent = self._authorization(scopes)
                response, final = self._follow(method, url, dict(headers or {}), body, sent)
            except HTTPError as error:
                if attempt >= attempts or not _worth_another_try(error):
                    raise self.unreachable(error, what) from None
                self.wait(attempt)
                attempt += 1
                continue
            if response.status in accept:
                return response
            # What it redirected us to has no business asking for the registry's credentials.
            if response.status == 401 and challenged < 2 and _origin(final) == _origin(self.url("")) \
                    and self._answer(response, scopes, sent, what):
                challenged += 1
                continue
            # Who is only told to wait has lost nothing, whatever else the caller sees to itself.
            if response.status in _TRY_AGAIN and attempt < (ATTEMPTS if response.status == 429 else attempts):
                after = response.headers.get("Retry-After")
                response.close()
                self.wait(attempt, after)
                attempt += 1
                continue
            raise self._refused(response, what)

    def read(self, response: BaseHTTPResponse, limit: int, what: str) -> bytes:
        """The whole body, of at most `limit` bytes."""
        try:
            data = response.read(limit + 1, decode_content=False)
        except HTTPError as error:
            raise self.unreachable(error, what) from None
        finally:
            response.close()
        if len(data) > limit:
            raise RegistryError(f"{self.where}: {what}: larger than {limit} bytes")
        return bytes(data)

    def _follow(self, method: str, url: str, headers: dict[str, str], body: Body,
                authorization: str) -> tuple[BaseHTTPResponse, str]:
        """The answer, after redirects, and the URL it came from; only the registry gets `authorization`."""
        own = _origin(self.url(""))
        for _ in range(_MAX_REDIRECTS):
            sent = {**headers}
            if _origin(url) == own:
                sent |= self.endpoint.headers
                if authorization:
                    sent["Authorization"] = authorization
            response = self._send(method, url, sent, body() if callable(body) else body)
            if response.status not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                return response, url
            target = response.headers["Location"]
            response.close()
            try:
                target = urljoin(url, target)
                parts = urlsplit(target)
            except ValueError:
                parts = urlsplit("")
            if parts.scheme not in ("http", "https") or not parts.hostname or \
                    (parts.scheme == "http" and urlsplit(url).scheme == "https"):
                raise RegistryError(f"{self.where}: redirected from {urlsplit(url).netloc} to {target[:200]!a}",
                                    hint="only HTTPS is followed from HTTPS")
            url = target
        raise RegistryError(f"{self.where}: more than {_MAX_REDIRECTS} redirects")

    def _send(self, method: str, url: str, headers: dict[str, str], body: Any) -> BaseHTTPResponse:
        headers = {"User-Agent": f"pyrunc/{__version__}", "Accept-Encoding": "identity", **headers}
        timeout = urllib3.Timeout(connect=min(_CONNECT_TIMEOUT, self.timeout), read=self.timeout)
        return self._pool(url).request(method, url, headers=headers, body=body, timeout=timeout, retries=False,
                                       redirect=False, preload_content=False, decode_content=False)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections for `url`: through a proxy where the environment names one."""
        proxy = proxy_for(*_origin(url))
        ours = _origin(url) == (("https", *_origin(f"https://{self.endpoint.host}")[1:]))
        elsewhere = _origin(url)[1:] != _origin(f"{urlsplit(url).scheme}://{self.endpoint.host}")[1:]
        key = f"{proxy} {ours} {elsewhere}"
        pool = self._pools.get(key)
        if pool is None:
            options: dict[str, Any] = {"num_pools": 8, "maxsize": 8, "ssl_context": self._tls(ours)}
            pool = self._through(proxy, options) if proxy else urllib3.PoolManager(**options)
            if elsewhere and not proxy and not outward.has_inward(self.endpoint.host):
                outward.confine(pool)
            self._pools[key] = pool
        return pool

    def _through(self, proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
        """A proxy's connections; what its address has before the @ is for the proxy alone (RFC 9110, 11.7.1)."""
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        try:
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an http:// or https:// address it is not")
            address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            headers = urllib3.make_headers(proxy_basic_auth=user) if user != ":" else None
            return urllib3.ProxyManager(address, proxy_headers=headers, **options)
        except (HTTPError, ValueError) as error:
            raise RegistryError(f"{self.where}: the proxy {_without_password(proxy)!a}: {error}",
                                hint="HTTPS_PROXY and HTTP_PROXY name it, NO_PROXY what goes without it") from None

    def _tls(self, ours: bool) -> ssl.SSLContext:
        """TLS as the endpoint is configured; a host we were redirected to gets the system's authorities alone."""
        context = ssl.create_default_context()
        # Since Python 3.13: refused would be authorities of one's own that curl, Docker and Podman take.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not ours:
            return context
        try:
            for path in self.endpoint.ca:
                context.load_verify_locations(path)
            for certificate, key in self.endpoint.client:
                context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(f"{self.where}: the certificates configured for it: {error}") from None
        if not self.endpoint.verify:
            urllib3.disable_warnings(InsecureRequestWarning)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    # Authentication

    def _authorization(self, scopes: list[str]) -> str:
        if self._basic:
            found = self.credentials()
            return found.basic() if found else ""
        header, until = self._tokens.get(" ".join(scopes), ("", 0.0))
        return header if time.monotonic() < until else ""

    def credentials(self) -> auth.Credentials | None:
        if self._given is not None:
            return self._given
        if not self._looked:
            # A mirror is another registry: it gets its own credentials, not those of the one it mirrors.
            name = self.endpoint.host if self.endpoint.mirror else self.registry
            self._credentials = auth.find(name, self.endpoint.repository)
            self._looked = True
        return self._credentials

    def _answer(self, response: BaseHTTPResponse, scopes: list[str], sent: str, what: str) -> bool:
        """Do what a 401 asks for, when `sent` was not enough; whether another try makes sense."""
        challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                wanted = scopes or [challenge.parameters.get("scope", "")]
                self._fetch_token(challenge.parameters, scopes, [scope for scope in wanted if scope], what)
                response.close()
                return True
        if any(challenge.scheme == "basic" for challenge in challenges) and not sent and self.credentials():
            response.close()
            self._basic = True
            return True
        return False

    def _fetch_token(self, parameters: dict[str, str], scopes: list[str], wanted: list[str], what: str) -> None:
        realm = parameters["realm"]
        check_realm(realm, self._scheme(), self.where)
        host = urlsplit(realm).netloc
        found = self.credentials()
        if found is not None and not may_have_credentials(realm, self.endpoint.host):
            found = auth.find(host)  # only what the user has given for that very host
        service = parameters.get("service", "")
        if found is not None and found.identity:
            fields = {"grant_type": "refresh_token", "service": service, "client_id": "pyrunc",
                      "scope": " ".join(wanted), "refresh_token": found.identity}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._token_request("POST", realm, headers, urlencode(fields).encode(), what)
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in wanted]
            if found is not None and found.username:
                query.append(("account", found.username))
            headers = {"Authorization": found.basic()} if found is not None and found.username else {}
            separator = "&" if "?" in realm else "?"
            response = self._token_request("GET", f"{realm}{separator}{urlencode(query)}" if query else realm,
                                           headers, None, what)
        data = self.read(response, 1 << 20, "the token")
        try:
            value = json.loads(data)
            token = str(value.get("token") or value["access_token"])
            lifetime = float(value.get("expires_in") or 60)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RegistryError(f"{self.where}: {host} answered with something else than a token") from None
        if not token.isascii() or not token.isprintable():
            raise RegistryError(f"{self.where}: {host} answered with something else than a token")
        until = time.monotonic() + max(lifetime - _LEFT_EARLY, 1.0)
        self._tokens[" ".join(scopes)] = (f"Bearer {token}", until)

    def _token_request(self, method: str, url: str, headers: dict[str, str], body: bytes | None,
                       what: str) -> BaseHTTPResponse:
        host = urlsplit(url).netloc
        try:
            response = self._send(method, url, headers, body)
        except HTTPError as error:
            raise Unreachable(f"{self.where}: the token service {host}: {_wording(error)}") from None
        if response.status == 200:
            return response
        if response.status in (401, 403):
            told = self._told(response)
            hint = "the password may have changed: `pyrunc image login` again" if "Authorization" in headers or body \
                else f"`pyrunc image login {self.registry}` may be needed"
            raise RegistryError(f"{self.where}: {what or 'a token'}: {host} refused a token: HTTP {response.status}"
                                f"{told}", status=response.status, hint=hint)
        raise RegistryError(f"{self.where}: the token service {host}: HTTP {response.status}{self._told(response)}",
                            status=response.status)

    # What went wrong

    def wait(self, attempt: int, after: str | None = None) -> None:
        """Before the next attempt: longer each time, and as long as the registry says (Retry-After)."""
        pause = 0.25 * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        time.sleep(min(max(pause, _seconds(after or "")), _MAX_WAIT))

    def unreachable(self, error: HTTPError, what: str = "") -> Unreachable:
        about = f"{what}: " if what else ""
        hint = ""
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            hint = (f"put its authority's certificate into /etc/containers/certs.d/{self.endpoint.host}/ca.crt, "
                    "or use --tls-verify=false")
        elif "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
            hint = "it speaks plain HTTP: --tls-verify=false, or insecure = true in registries.conf"
        elif "Name or service not known" in text or "name resolution" in text:
            hint = f"is {self.endpoint.host} the registry's name, and is there a network?"
        proxy = proxy_for(*_origin(f"{self.scheme or 'http'}://{self.endpoint.host}"))
        if proxy and not hint:
            hint = f"by the proxy {_without_password(proxy)}; NO_PROXY names what goes without it"
        return Unreachable(f"{self.where}: {about}{_wording(error)}", hint=hint)

    def _told(self, response: BaseHTTPResponse) -> str:
        """`: CODE: message`, from the body of an error (distribution-spec, Error Codes)."""
        try:
            data = json.loads(response.read(_MAX_ERROR, decode_content=False))
            first = data["errors"][0] if data.get("errors") else data
            parts = [str(first.get("code") or "").lower().replace("_", " "), str(first.get("message") or
                                                                                first.get("details") or "")]
            text = ": ".join(part[:200] for part in parts if part)
            return f": {text}" if text else ""
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, HTTPError, OSError, RecursionError):
            return ""
        finally:
            response.close()

    def _refused(self, response: BaseHTTPResponse, what: str) -> RegistryError:
        status = response.status
        told = self._told(response)
        about = f"{what}: " if what else ""
        hint = ""
        if status == 401:
            hint = ("not logged in: " if self.credentials() is None else "the credentials were not accepted: ") + \
                f"`pyrunc image login {'' if self.registry == DOCKER_HUB else self.registry}".rstrip() + "`"
        elif status == 403:
            hint = "the account may not do that"
        elif status == 429:
            hint = "too many requests; log in, or try again later"
        return RegistryError(f"{self.where}: {about}HTTP {status}{told}", status=status, hint=hint)


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host, port: whose credentials may go there."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    return parts.scheme, (parts.hostname or "").lower(), port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def _without_password(proxy: str) -> str:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()[:200]


def _seconds(after: str) -> float:
    """How long a Retry-After says: seconds, or a date (RFC 9110, 10.2.3)."""
    if after.isascii() and after.isdigit():
        return float(after)
    try:
        return parsedate_to_datetime(after).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _worth_another_try(error: HTTPError) -> bool:
    text = str(error)
    return "CERTIFICATE_VERIFY_FAILED" not in text and "WRONG_VERSION_NUMBER" not in text and \
        "Name or service not known" not in text


def _wording(error: HTTPError) -> str:
    """What urllib3 says, without its objects' addresses."""
    cause: BaseException | None = getattr(error, "reason", None) or error.__cause__ or error.__context__
    text = str(cause if isinstance(cause, BaseException) and str(cause) else error)
    for start in ("Failed to establish a new connection: ", "Connection broken: "):
        if start in text:
            text = text.partition(start)[2] or text
    if "timed out" in text:
        return "no answer in time (timed out)"
    if found := re.search(r"\[Errno (-?[0-9]+)\] ([^'\")]+)", text):
        number = int(found[1])  # below 0: one of getaddrinfo(3)'s
        return errno_text(number) if number > 0 else f"{found[2][:1].lower()}{found[2][1:]}"
    return text.rpartition(">: ")[2].strip("()'\" ") or type(error).__name__
