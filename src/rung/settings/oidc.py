"""`[serve.oidc]`: tokens of an identity provider (OpenID Connect), beside keys of our own."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from rung.domain.access import Role
from rung.domain.errors import ConfigurationError

__all__ = ["OidcSettings", "check_url"]

_Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]
"""Signatures by which only the issuer can have made a token: none that a shared secret makes is here."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class OidcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens of an identity provider, which both doors take beside keys. Needs `pip install 'rung[oidc]'`."""

    issuer: str = ""
    """URL of the provider, as its tokens say it in `iss`; empty: only keys are taken."""
    audience: tuple[str, ...] = ()
    """What tokens for this project say in `aud`: one of these."""
    algorithms: tuple[_Algorithm, ...] = ("RS256", "ES256")
    """By which a token may be signed."""
    jwks: str = ""
    """URL of the provider's keys; empty: where `/.well-known/openid-configuration` says."""
    refresh_seconds: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """How often the keys are fetched anew. A token whose key is not known has them fetched within five seconds."""
    leeway_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 30.0
    """By how much the provider's clock may differ from ours."""
    role_claim: str = "roles"
    """Claim that says what its bearer may do, such as `groups` or, inside another, `realm_access.roles`."""
    roles: dict[str, Role] = {}
    """Value of that claim -> role; of several the highest counts. Empty: the values are names of roles."""
    model_claim: str = ""
    """Claim that says for which models; empty: for every model."""
    models: dict[str, tuple[str, ...]] = {}
    """Value of that claim -> names or patterns of models. Empty: the values are these."""
    name_claim: str = "sub"
    """Claim that names its bearer for people, in the audit log, such as `email`."""

    def __post_init__(self) -> None:
        for name in ("issuer", "jwks"):
            if (text := getattr(self, name)) and not check_url(text):
                raise ConfigurationError(f"{name} = {text!r:.100} must be an https URL, or http on this machine")

    def checked(self) -> "OidcSettings":
        """These settings, if they make sense together.

        Raises:
            ConfigurationError: saying what is missing.
        """
        if self.issuer and not self.audience:
            raise ConfigurationError(
                "the issuer in [serve.oidc] goes with an `audience`: else its tokens for others would do here"
            )
        if self.issuer and not self.algorithms:
            raise ConfigurationError("`algorithms` in [serve.oidc] must name one at least")
        return self


def check_url(text: str) -> bool:
    """Whether keys may be fetched there: nobody on the way can have put others in their place."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))
