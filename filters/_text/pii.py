"""The forms of personal data and of credentials: how they are written, and what checks them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from typing import Literal, NamedTuple

Kind = Literal["email", "phone", "iban", "card", "ssn", "cn_id", "ip", "key", "password"]
SECRET: tuple[Kind, ...] = ("key", "password")

# The kinds that hold seven digits in a row, or with little between them.
LONG: frozenset[Kind] = frozenset({"phone", "iban", "card", "ssn", "cn_id"})
LONG_NUMBER = re.compile(r"\d(?:[ ().-]{0,2}\d){6}")


class Form(NamedTuple):
    """A way to write a kind.

    Attributes:
        kind: What it is.
        needs: Texts of which one has to be there; nothing where none is needed.
        pattern: How it looks.
        holds: What else is asked of a match.
    """

    kind: Kind
    needs: tuple[str, ...]
    pattern: re.Pattern[str]
    holds: Callable[[re.Match[str]], bool]


def luhn(number: str) -> bool:
    """Whether the last digit of a number checks the others (ISO/IEC 7812-1, annex B).

    >>> luhn("4111111111111111")
    True
    """
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def iban(number: str) -> bool:
    """Whether the check digits of an IBAN hold (ISO 13616; ISO 7064, mod 97-10).

    >>> iban("DE89370400440532013000")
    True
    """
    moved = number[4:] + number[:4]
    return int("".join(str(int(sign, 36)) for sign in moved)) % 97 == 1


def cn_id(number: str) -> bool:
    """Whether a Chinese citizen's number has a date of birth and its check digit (GB 11643-1999).

    >>> cn_id("11010519491231002X")
    True
    """
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    weights = (pow(2, 17 - place, 11) for place in range(17))
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], weights, strict=True))
    return born.year >= 1900 and number[17].upper() == "10X98765432"[total % 11]


# A bare number is a card's or a phone's only where a word before it says so.
_CARD_WORD = re.compile(
    r"(?:card|visa|mastercard|amex|carte|karte|tarjeta|信用卡|银行卡|卡号|карт)\D*$", re.IGNORECASE
)
_PHONE_WORD = re.compile(
    r"(?:\b(?:tele)?phone|\btel|\bmobile|\bcall(?: me)?(?: at| on)|\bwhatsapp|\bfax|téléphone|"
    r"telefon|teléfono|电话|手机|联系方式|телефон|電話)\.?(?: (?:number|no\.?|is)){0,2}"
    r"(?:号码?|是|为)?\s{0,2}[:：]?\s{0,2}$",
    re.IGNORECASE,
)
_BEFORE = 40
_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|6(?:011|[45]|2)|35|3[0678]")
_PLACEHOLDERS = {"password", "passwd", "pass", "pwd", "secret", "mypassword", "your_password"}


def _digits(found: re.Match[str]) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", found[0])


def _follows(found: re.Match[str], word: re.Pattern[str]) -> bool:
    head = found.string[max(0, found.start() - _BEFORE) : found.start()]
    return word.search(head) is not None


def _is_email(found: re.Match[str]) -> bool:
    """Not one of the names that RFC 2606 keeps for examples."""
    domain = found[0].rpartition("@")[2].lower()
    return not re.search(r"(?:^|\.)(?:example(?:\.\w+)?|test|invalid|localhost)$", domain)


def _is_phone(found: re.Match[str]) -> bool:
    """7 to 15 digits (ITU-T E.164), not all alike."""
    digits = re.sub(r"\D", "", found[0])
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2


def _is_phone_after_a_word(found: re.Match[str]) -> bool:
    return _is_phone(found) and _follows(found, _PHONE_WORD)


def _is_iban(found: re.Match[str]) -> bool:
    number = _digits(found)
    return 15 <= len(number) <= 34 and iban(number)


def _is_card(found: re.Match[str]) -> bool:
    """Digits that begin as an issuer's and check."""
    digits = _digits(found)
    return _ISSUERS.match(digits) is not None and luhn(digits)


def _is_card_after_a_word(found: re.Match[str]) -> bool:
    return _is_card(found) and _follows(found, _CARD_WORD)


def _is_ssn(found: re.Match[str]) -> bool:
    """No area of these was ever given out (US Social Security Administration)."""
    return found[0][:3] not in ("000", "666") and found[0][0] != "9"


def _is_public(found: re.Match[str]) -> bool:
    """An address of the public internet; `1.2.3.4` and the like are numbers of sections."""
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return False
    return address.is_global and (address.version == 6 or bool(re.search(r"\d\d", found[0])))


def _is_key(found: re.Match[str]) -> bool:
    """Random letters have digits among them and many different signs; placeholders have not."""
    key = found[0]
    return len(set(key)) >= 10 and (key[0] == "A" or any(sign.isdigit() for sign in key))


def _is_password(found: re.Match[str]) -> bool:
    password = found["password"].lower()
    return password not in _PLACEHOLDERS and not re.match(r"[<{$\[*x]", password)


def _first(signs: str, behind: str = r"\w.,+*/^=-") -> str:
    """One of some signs, behind none of others. The sign comes first: so it is found faster."""
    return f"[{signs}](?<![{behind}][{signs}])"


_DIGIT = _first("0-9")
_END = r"(?![\w^]|[.,-]\d)"
_NO_RESULT = r"(?!\s{0,3}[=+*/^]|[\w.]\d|\w)"
_EMAIL = (
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@[A-Za-z0-9-]{1,63}"
    r"(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,12}(?![\w(-]|\.\w)"
)
_PHONE_ABROAD = (
    r"\+(?<![\w.+*/^=)}-]\+)(?<![\d)}=] \+)(?<!\W\w \+)[1-9]\d{0,14}"
    r"(?:[ .-]\(?\d{1,8}\)?|\(\d{1,5}\)\d{0,8}){0,6}" + _END
)
_PHONE_US = (
    f"(?:{_first('2-9')}" + r"\d\d[-.]|\((?<!\w\()[2-9]\d\d\) ?)[2-9]\d\d[-.]\d{4}" + _NO_RESULT
)
_PHONE_BARE = _first("(0-9", r"\w.") + r"\d{1,15}\)?(?:[ -]\d{2,8}){0,4}" + _END
_IBAN = _first("A-Z", r"\w") + r"[A-Z]\d\d(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"
_CARD_GROUPS = _DIGIT + r"\d{3}([ -])(?:\d{4}\1\d{4}\1\d{4}|\d{6}\1\d{5})" + _END
_SSN = _DIGIT + r"\d\d-(?!00)\d\d-(?!0000)\d{4}(?!\s{0,3}-)" + _NO_RESULT
_IPV6 = _first("23", r"\w:") + r"[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4}(?![\w:])"
_KEY = (
    r"(?<![A-Za-z0-9_-])(?:"
    r"A(?:KIA|SIA)[A-Z2-7]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_\w{22}_\w{59}"
    r"|sk-(?:[a-z]{2,10}-)?[\w-]{32,200}"  # OpenAI, Anthropic and others
    r"|xox[abeoprs]-[A-Za-z0-9-]{20,250}"  # Slack
    r"|AIza[\w-]{35}"  # Google
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,247}"  # Stripe
    r"|hf_[A-Za-z0-9]{30,40}|glpat-[\w-]{20,60}|npm_[A-Za-z0-9]{36}"
    r"|eyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{16,1000}"  # a JSON web token
    r")(?![A-Za-z0-9_-])"
)
_KEY_SIGNS = "AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ sk- xox AIza _live_ _test_ hf_ glpat-"
_PEM = (
    r"-----BEGIN (?:[A-Z]{2,9} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]{0,20000}-----END (?:[A-Z]{2,9} ){0,2}PRIVATE KEY(?: BLOCK)?-----)?"
)
_PASSWORD = (
    r"(?<![A-Za-z])[a-z][a-z+]{1,14}://[^\s/:@]{0,100}:(?P<password>[^\s/:@]{1,200})@"
    r"[A-Za-z0-9.-]{1,253}"
)

FORMS = [
    Form("email", ("@",), re.compile(_EMAIL, re.ASCII), _is_email),
    Form("phone", ("+",), re.compile(_PHONE_ABROAD), _is_phone),
    Form("phone", ("-", "."), re.compile(_PHONE_US), _is_phone),
    Form("phone", (), re.compile(_PHONE_BARE), _is_phone_after_a_word),
    Form("iban", (), re.compile(_IBAN), _is_iban),
    Form("card", (" ", "-"), re.compile(_CARD_GROUPS), _is_card),
    Form(
        "card", (), re.compile(_first("2-6", r"\w.") + r"\d{12,15}" + _END), _is_card_after_a_word
    ),
    Form("ssn", ("-",), re.compile(_SSN), _is_ssn),
    Form(
        "cn_id",
        (),
        re.compile(_first("1-8", r"\d.") + r"\d{5}(?:19|20)\d{9}[\dXx](?![\dA-Za-z])"),
        lambda found: cn_id(found[0]),
    ),
    Form(
        "ip",
        (".",),
        re.compile(_first("0-9", r"\w.-") + r"\d{0,2}(?:\.\d{1,3}){3}(?![\w-]|\.\d)"),
        _is_public,
    ),
    Form("ip", (":",), re.compile(_IPV6), _is_public),
    Form("key", (*_KEY_SIGNS.split(), "npm_", "eyJ"), re.compile(_KEY, re.ASCII), _is_key),
    Form("key", ("PRIVATE KEY",), re.compile(_PEM), lambda found: True),
    Form("password", ("://",), re.compile(_PASSWORD), _is_password),
]
