"""What statuses and bodies of an API's failures mean: try again, give the request or the API up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from synth.core.errors import Unfinished, UserError
from synth.teachers._openai.refusals import read_refusal
from synth.teachers._openai.waits import advertised as advertised
from synth.teachers._openai.waits import retry_after as retry_after
from synth.teachers._openai.waits import retry_in_body
from synth.teachers.base import RequestRejected, RetryableError, TeacherFault

# So many different first questions refused mean that all are: for a reason of the question (too
# long, flagged), and for a reason that is not known.
_REFUSED_CONTENT, _REFUSED = 20, 3
_NO_MONEY = re.compile(
    r"insufficient_quota|current quota|insufficient.{0,20}balance|billing|recharge"
)
# Of limits on a rate, which pass by themselves, though some say "quota", too.
_PASSES = re.compile(
    r"per ?(minute|second|hour|day)|throttling|\b[rt]p[mds]\b|rate limit|retry in|try again"
)
_MODERATION = re.compile(
    r"moderation|flagged|content[ _-]?(policy|filter)|safety|sensitive|inspection"
)


class _Failure(NamedTuple):
    """The body of an error."""

    message: str
    code: str  # code, type and status
    param: str
    asked_s: float | None  # seconds that it asks to wait
    known: bool  # whether it is an API's error, and not a page of some web server


@dataclass(slots=True)
class StatusErrors:
    """Makes exceptions of statuses; no message shows the key, but where it is from.

    `teacher` is the teacher's name in the config, for hints.
    """

    base_url: str
    model: str
    key: str | None
    api_key_env: str | None
    teacher: str = "NAME"

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return what a status other than 200 means: try again, give the request or the API up.

        A `TeacherFault` in it says what it means where no request is answered.
        """
        failure = _read(body)
        message = failure.message
        if self.key:  # some servers echo the key in their message
            message = message.replace(self.key, "***")
        reason, text = f"status {status}: {message}", f"{failure.code} {message}".lower()
        after = retry_after(headers)
        after = failure.asked_s if after is None else after
        if status == 401:
            return self._wrong_key(status, message)
        if status == 403:
            if _MODERATION.search(text):
                return RequestRejected(reason, self._all_refused(reason, _REFUSED_CONTENT))
            return RequestRejected(reason, TeacherFault(self._wrong_key(status, message)))
        if status in (404, 405):
            fault = TeacherFault(self._unknown(status, message, failure.known))
            return RetryableError(reason, after, trouble="malformed", if_all=fault)
        if 300 <= status < 400:
            target = " ".join(headers.get("location", "").split())[:200]
            return UserError(f"{self.base_url} is moved to {target!r} ({status}); set base_url")
        if status == 402 or (
            status == 429 and after is None and _NO_MONEY.search(text) and not _PASSES.search(text)
        ):
            return self._no_money(status, message)
        if status == 429:
            return RetryableError(reason, after, trouble="rate limit")
        if status in (408, 409, 425) or status >= 500:
            return RetryableError(reason, after)
        return self._refused(status, message, reason, failure)

    def _refused(self, status: int, message: str, reason: str, failure: _Failure) -> Exception:
        """Return what a refusal means: of a parameter, of this question, or of who knows what."""
        refusal = read_refusal(message, failure.code, failure.param, self.teacher)
        if refusal.kind == "balance":
            return self._no_money(status, message)
        if refusal.kind == "key":
            return self._wrong_key(status, message)
        if refusal.kind == "model":
            fault = TeacherFault(self._unknown(status, message, True))
        elif refusal.kind == "parameter":
            words = f"{self.base_url} refuses every request: {status} {message}"
            fault = TeacherFault(UserError(f"{words} -- {refusal.hint}"))
        else:
            content = refusal.kind == "content"
            fault = self._all_refused(reason, _REFUSED_CONTENT if content else _REFUSED)
        return RequestRejected(reason, fault)

    def _all_refused(self, reason: str, number: int) -> TeacherFault:
        words = f"{self.base_url} refused the first {number} different requests, the last: {reason}"
        return TeacherFault(UserError(words), number, later=False)

    def _wrong_key(self, status: int, message: str) -> UserError:
        where = f"from {self.api_key_env}" if self.key else "none was given (api_key_env)"
        return UserError(f"{self.base_url} does not accept the key ({where}): {status} {message}")

    def _unknown(self, status: int, message: str, known: bool) -> UserError:
        words = f"{self.base_url} knows no model {self.model!r}, or has no such address: "
        hint = ""
        if "v1/responses" in message:
            hint = f" -- set teachers.{self.teacher}.kind: openai_responses"
        elif not known and not re.search(r"/v\d", self.base_url):
            hint = f" -- base_url mostly ends in /v1: {self.base_url.rstrip('/')}/v1"
        return UserError(f"{words}{status} {message}{hint}")

    def _no_money(self, status: int, message: str) -> Unfinished:
        return Unfinished(f"{self.base_url}: the balance or quota is used up: {status} {message}")


def _read(body: bytes) -> _Failure:
    """Read the body of an error, in the forms that APIs give it, or whatever it is."""
    try:
        values: Any = json.loads(body)
    except (ValueError, RecursionError):
        text = " ".join(body[:2000].decode("utf-8", "replace").split())[:300]
        return _Failure(text, "", "", retry_in_body(None, text), False)
    if isinstance(values, list) and values:  # Google's
        values = values[0]
    values = values if isinstance(values, dict) else {"message": values}
    error = values.get("error") or values
    error = error if isinstance(error, dict) else {"message": error}
    told = [error.get(name) for name in ("message", "detail", "msg")]
    message = next((text for text in told if text), error)
    whole = " ".join(_words(message).split())
    code = " ".join(str(error[name]) for name in ("code", "type", "status") if error.get(name))
    known = bool(values.get("error") or values.get("message")) and whole.lower() != "not found"
    asked_s = retry_in_body(error, whole)
    return _Failure(whole[:300], code, str(error.get("param") or ""), asked_s, known)


def _words(message: Any) -> str:
    """Return a message as text; FastAPI and pydantic list each complaint with its place."""
    if isinstance(message, list) and all(isinstance(item, dict) for item in message):
        return "; ".join(
            f"{'.'.join(map(str, item.get('loc') or []))}: {item.get('msg')} ({item.get('type')})"
            if "msg" in item
            else json.dumps(item)
            for item in message
        )
    return message if isinstance(message, str) else json.dumps(message)
