"""What an API refuses with a 400: a parameter (so it refuses all), a question, or who knows."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["parameter", "content", "key", "model", "balance", "unknown"]


class Refusal(NamedTuple):
    """What is refused, and for a parameter what to do about it in the config."""

    kind: Kind
    hint: str = ""


_KEY = re.compile(
    r"(api|access)[ _-]?key (not valid|is invalid|expired)|(invalid|incorrect) api[ _-]?key"
    r"|api_key_invalid"
)
_MODEL = re.compile(
    r"not a valid model|model_not_found|invalid model|unknown model|no such model"
    r"|model .{0,80}(does not exist|not found|not exist)"
)
_BALANCE = re.compile(
    r"arrearage|overdue|insufficient[ _](balance|credit|fund)|balance is too low"
    r"|billing_hard_limit|out of credits"
)
_CONTENT = re.compile(
    r"context[ _](length|window)|prompt is too long|too long|too many (input )?tokens|input length"
    r"|length of (the )?(messages|prompt|input)|string_above_max_length|request too large"
    r"|content[ _-](policy|filter|management|moderation)|moderation|flagged|safety|sensitive"
    r"|inappropriate|data_?inspection|blocked|violat|prohibited|risk|harm|usage polic"
    r"|invalid_prompt"
)
_ROLE = re.compile(
    r"system[ _'\"]*(role|message|prompt|instruction)|developer instruction|'system'|\"system\""
    r"|roles? (must|are|should)|role.{0,30}not support"
)
_STREAM = re.compile(
    r"non-?stream|only support\w* stream|stream mode|stream must|must be streamed"
    r"|streaming is (strongly )?(required|recommended)"
)
_SAYS_PARAMETER = re.compile(
    r"unsupported|not supported|does not support|unknown (name|parameter|field|argument)"
    r"|unrecognized|unexpected|extra inputs|extra_forbidden|not permitted|not allowed|cannot both"
    r"|invalid.{0,20}(parameter|value)|parameter|range of|valid range|must be|should be|too large"
    r"|at most|is deprecated|maximum allowed"
)
_LENGTHS = r"max_(?:completion_|output_|new_)?tokens"
_SAMPLING = ("temperature", "top_p", "top_k", "seed", "stop", "top_logprobs", "logprobs")
_QUOTED = re.compile(r"[`'\"]([a-z][a-z0-9_]{1,40})(?:\.[\w.]*)?[`'\"]")
_USE_INSTEAD = re.compile(rf"use [`'\"]?({_LENGTHS})[`'\"]? instead|({_LENGTHS})[`'\"]? instead")
_NO_NAMES = {
    "messages", "input", "prompt", "model", "content", "system", "user", "assistant", "role",
    "true", "false", "null", "none", "string", "number", "integer", "boolean", "object", "array",
    "invalid_request_error", "error", "type", "code", "message", "param", "body", "request",
}  # fmt: skip


def read_refusal(message: str, code: str, param: str, teacher: str) -> Refusal:
    """Return what the words of a 400 refuse; `teacher` is its name in the config, for the hint."""
    text, place = f"{message} {code}".lower(), f"teachers.{teacher}"
    for kind, words in (("key", _KEY), ("balance", _BALANCE), ("model", _MODEL)):
        if words.search(text):
            return Refusal(kind)  # type: ignore[arg-type]
    if (length := _refused_length(text, place)) is not None:
        return length
    named = param.lower().split(".")[-1].split("[")[0]
    if _ROLE.search(text) and not _CONTENT.search(text):
        hint = "take the system message out: generate.prompt.template without one"
        return Refusal("parameter", hint)
    if _CONTENT.search(text) and named in ("", "none", *_NO_NAMES):
        return Refusal("content")
    if _STREAM.search(text):
        return Refusal("parameter", f"set {place}.stream: true")
    if (name := _parameter(text, named)) is not None:
        return Refusal("parameter", _hint(name, place))
    return Refusal("content" if _CONTENT.search(text) else "unknown")


def _refused_length(text: str, place: str) -> Refusal | None:
    """Return the refusal of the limit on an answer's tokens, or None where it is none."""
    if (instead := _USE_INSTEAD.search(text)) and re.search(r"not supported|unsupported", text):
        wanted = instead[1] or instead[2]
        if wanted in ("max_tokens", "max_completion_tokens"):
            return Refusal("parameter", f"set {place}.max_tokens_name: {wanted}")
    lower = "lower generate.sampling.max_tokens"
    context = re.search(r"context (?:length|window)[^0-9]{0,20}([\d,]+)", text)
    answer = re.search(
        rf"([\d,]+) (?:tokens )?in the completion|{_LENGTHS}[^0-9]{{0,60}}([\d,]+)", text
    )
    if context and answer:  # the question counts too, unless the answer alone is more than fits
        tokens = _number(answer[1] or answer[2])
        return Refusal("parameter", lower) if tokens >= _number(context[1]) else Refusal("content")
    if context is None and re.search(_LENGTHS, text) and _SAYS_PARAMETER.search(text):
        return Refusal("parameter", f"{lower}, or see {place}.max_tokens_name")
    return None


def _parameter(text: str, named: str) -> str | None:
    """Return the parameter that a message refuses, or None where it names none."""
    if named and named not in _NO_NAMES:
        return named
    if not _SAYS_PARAMETER.search(text):
        return None
    for name in _SAMPLING[:-3]:
        if re.search(rf"\b{name}\b", text) and (name != "seed" or "seed" in text.split()):
            return name
    quoted = [name for name in _QUOTED.findall(text) if name not in _NO_NAMES]
    if re.search(r"unrecognized|unknown|extra inputs|extra_forbidden|unexpected", text):
        quoted += re.findall(r"\b([a-z]+_[a-z_]+)\b", text.replace("extra_forbidden", ""))
    quoted += re.findall(r"parameter[. ]+[`'\"]?([a-z]\w*_\w+)", text)
    quoted += [name for name in _SAMPLING if re.search(rf"\b{name}\b", text) and name != "stop"]
    return quoted[0] if quoted else None


def _hint(name: str, place: str) -> str:
    if re.fullmatch(_LENGTHS, name):
        return f"see {place}.max_tokens_name and generate.sampling.max_tokens"
    if name in ("logprobs", "top_logprobs"):
        return "take generate.sampling.top_logprobs out of the config, or lower it"
    if name in _SAMPLING:
        return f"take generate.sampling.{name} out of the config, or give it another value"
    if name == "stream_options":
        return f"set {place}.stream_usage: false"
    return f"see generate.sampling.extra.{name}"


def _number(text: str) -> int:
    return int(text.replace(",", "") or 0)
