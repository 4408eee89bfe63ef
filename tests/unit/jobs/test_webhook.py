import hashlib
import hmac

import pytest

from rung.domain.errors import ConfigurationError
from rung.jobs.webhook import check_address, signed


@pytest.mark.parametrize(
    ("address", "private", "allowed"),
    [
        ("8.8.8.8", False, True),
        ("2606:4700::1111", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("10.1.2.3", False, False),
        ("10.1.2.3", True, True),
        ("192.168.0.1", False, False),
        ("100.64.0.1", False, False),
        ("0.0.0.0", True, False),
        ("::", True, False),
        ("::1", False, False),
        ("fc00::1", False, False),
        ("fe80::1%eth0", True, False),
        ("224.0.0.1", True, False),
        ("ff02::1", True, False),
        ("169.254.169.254", True, False),
        ("168.63.129.16", True, False),
        ("fd00:ec2::254", True, False),
        ("100.100.100.200", True, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:169.254.169.254", True, False),
        ("::ffff:8.8.8.8", False, True),
        ("64:ff9b::7f00:1", False, False),
        ("2002:7f00:1::", False, False),
    ],
)
def test_where_a_webhook_may_go(address: str, *, private: bool, allowed: bool) -> None:
    if allowed:
        check_address(address, "alerts", private=private)
    else:
        with pytest.raises(ConfigurationError, match="alerts"):
            check_address(address, "alerts", private=private)


def test_a_receiver_can_check_the_signature() -> None:
    headers = signed("0123456789abcdef", "17", b"{}")
    expected = hmac.new(b"0123456789abcdef", b"17.{}", hashlib.sha256).hexdigest()
    assert headers == {"rung-timestamp": "17", "rung-signature": f"sha256={expected}"}
