"""The forms of personal data and of credentials: how they are written, and what checks them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import date
from typing import Literal, NamedTuple

from filters._text.tables import any_of, read_table

Kind = Literal["email", "phone", "iban", "card", "ssn", "cn_id", "ip", "key", "password"]
SECRET: tuple[Kind, ...] = ("key", "password")

# The kinds that hold seven digits in a row, or with little between them.
LONG: frozenset[Kind] = frozenset({"phone", "iban", "card", "ssn", "cn_id"})
_BEFORE = 40  # characters in which a word that says what a number is may stand
LONG_NUMBER = re.compile(r"\d(?:[ ().-]{0,2}\d){6}")


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


_SIGNS = re.compile(r"[^0-9A-Za-z]")
_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|6(?:011|[45]|2)|35|3[0678]")
_PLACEHOLDERS = {"password", "passwd", "pass", "pwd", "secret", "mypassword", "your_password"}


def _is_email(match: re.Match[str]) -> bool:
    """Not one of the names that RFC 2606 keeps for examples."""
    domain = match[0].rpartition("@")[2].lower()
    return not re.search(r"(?:^|\.)(?:example(?:\.\w+)?|test|invalid|localhost)$", domain)


def _is_phone(match: re.Match[str]) -> bool:
    """7 to 15 digits (ITU-T E.164), not all alike."""
    digits = re.sub(r"\D", "", match[0])
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2


def _is_iban(match: re.Match[str]) -> bool:
    number = _SIGNS.sub("", match[0])
    return 15 <= len(number) <= 34 and iban(number)


def _is_card(match: re.Match[str]) -> bool:
    """Digits that begin as an issuer's and check."""
    digits = _SIGNS.sub("", match[0])
    return _ISSUERS.match(digits) is not None and luhn(digits)


def _is_ssn(match: re.Match[str]) -> bool:
    """No area of these was ever given out (US Social Security Administration)."""
    return match[0][:3] not in ("000", "666") and match[0][0] != "9"


def _is_public(match: re.Match[str]) -> bool:
    """An address of the public internet; `1.2.3.4` and the like are numbers of sections."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    return address.is_global and (address.version == 6 or bool(re.search(r"\d\d", match[0])))


def _is_key(match: re.Match[str]) -> bool:
    """Random letters have digits among them and many different signs; placeholders have not."""
    key = match[0]
    return len(set(key)) >= 10 and (key[0] == "A" or any(sign.isdigit() for sign in key))


def _is_password(match: re.Match[str]) -> bool:
    password = match["password"].lower()
    return password not in _PLACEHOLDERS and not re.match(r"[<{$\[*x]", password)


_CHECKS: dict[Kind, Callable[[re.Match[str]], bool]] = {
    "email": _is_email,
    "phone": _is_phone,
    "iban": _is_iban,
    "card": _is_card,
    "ssn": _is_ssn,
    "cn_id": lambda match: cn_id(match[0]),
    "ip": _is_public,
    "key": _is_key,
    "password": _is_password,
}


class Form(NamedTuple):
    """A way to write a kind.

    Attributes:
        kind: What it is.
        needs: Texts of which one has to be there; nothing where none is needed.
        pattern: How it looks.
        checked: Whether more is asked of a match, by its kind.
        after: What has to stand before a match.
    """

    kind: Kind
    needs: list[str]
    pattern: re.Pattern[str]
    checked: bool
    after: re.Pattern[str] | None

    def holds(self, match: re.Match[str]) -> bool:
        """Whether a match of the pattern is what it looks like."""
        if self.checked and not _CHECKS[self.kind](match):
            return False
        if self.after is None:
            return True
        head = match.string[max(0, match.start() - _BEFORE) : match.start()]
        return self.after.search(head) is not None


def _forms() -> Iterator[Form]:
    table = read_table("pii")
    before = {k: re.compile("".join(word), re.IGNORECASE) for k, word in table["before"].items()}
    for entry in table["forms"]:
        flags = re.ASCII if "ascii" in entry else re.NOFLAG
        pattern = re.compile(any_of([entry["pattern"]], table["parts"]), flags)
        after = before[entry["kind"]] if "after_a_word" in entry else None
        yield Form(entry["kind"], entry["needs"], pattern, "unchecked" not in entry, after)


FORMS = list(_forms())
