"""What the claims of a token (JWT, RFC 7519) let its bearer do, once its signature has been checked. Pure.

Times are seconds since the epoch.
"""

import hashlib
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import msgspec

from rung.domain.access import ANY, ROLES, VISITOR, Key, Role, is_pattern
from rung.domain.errors import Forbidden, Unauthenticated

__all__ = ["TokenRules", "key_of"]

_LONGEST_NAME = 100


class TokenRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a token has to say, and where it says what."""

    issuer: str
    audience: tuple[str, ...]
    leeway: float = 30.0
    """Seconds by which clocks may differ."""
    role_claim: str = "roles"
    roles: Mapping[str, Role] = {}
    model_claim: str = ""
    models: Mapping[str, tuple[str, ...]] = {}
    name_claim: str = "sub"


def key_of(claims: Mapping[str, Any], rules: TokenRules, now: float) -> Key:
    """The key that a token with these claims stands for; it expires with the token.

    Raises:
        Unauthenticated: it is of another issuer, for somebody else, or not for now.
        Forbidden: it gives no role here, or no model.
    """
    if claims.get("iss") != rules.issuer:
        raise Unauthenticated("this token is of another issuer")
    if not set(_texts(claims.get("aud"), split=False)) & set(rules.audience):
        raise Unauthenticated("this token was made for somebody else: its `aud` does not name this project")
    expires = _time(claims, "exp")
    if expires is None:
        raise Unauthenticated("this token says no time at which it expires")
    if now >= expires + rules.leeway:
        raise Unauthenticated("this token has expired: get a new one")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and now < begins - rules.leeway:
            raise Unauthenticated(f"this token is not valid yet: its `{name}` lies in the future")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise Unauthenticated("this token does not say in `sub` who its bearer is")
    name = _name(_find(claims, rules.name_claim), subject)
    return Key(
        id=VISITOR + hashlib.blake2b(f"{rules.issuer}\0{subject}".encode(), digest_size=8).hexdigest(),
        digest="",
        name=name,
        role=_role(claims, rules, name),
        models=_models(claims, rules, name),
        expires=expires + rules.leeway,
    )


def _role(claims: Mapping[str, Any], rules: TokenRules, name: str) -> Role:
    known: Mapping[str, Role] = rules.roles or {role: role for role in ROLES}
    found = [known[text] for text in _texts(_find(claims, rules.role_claim)) if text in known]
    if not found:
        raise Forbidden(f"the token of {name!r} gives no role here: its claim `{rules.role_claim}` names none")
    return max(found, key=ROLES.index)


def _models(claims: Mapping[str, Any], rules: TokenRules, name: str) -> tuple[str, ...]:
    if not rules.model_claim:
        return ANY
    said = list(_texts(_find(claims, rules.model_claim)))
    found = [one for text in said for one in rules.models.get(text, ())] if rules.models else said
    patterns = tuple(dict.fromkeys(text for text in found if is_pattern(text)))
    # An empty scope would be none at all.
    if not patterns:
        raise Forbidden(f"the token of {name!r} is for no model here: its claim `{rules.model_claim}` names none")
    return patterns


def _find(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, which may hold dots, or inside others by theirs."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(value: Any, *, split: bool = True) -> Iterator[str]:
    """The texts of a claim: one, several with spaces between them as in `scope`, or a list."""
    if isinstance(value, str):
        yield from value.split() if split else [value]
    elif isinstance(value, list):
        yield from (one for one in value if isinstance(one, str))


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise Unauthenticated(f"`{name}` of this token is no time")
    return float(value)


def _name(value: Any, subject: str) -> str:
    """What people are shown: one line, and not a long one."""
    text = value if isinstance(value, str) and value else subject
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_LONGEST_NAME]
