"""What is public is one table: judged by the IANA registries, not by the version of Python."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._addresses import Address, describe_special, is_loopback, is_public, parse_address
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.sandbox.http.fetch import vet_address
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError

PUBLIC = """
    1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.0.0.9 192.0.0.10 192.0.1.1
    192.31.196.1 192.52.193.1 192.88.98.1 192.175.48.1 198.17.255.255 198.20.0.0 223.255.255.255
    2000:: 2606:4700:4700::1111 2001:1::1 2001:1::2 2001:1::3 2001:3::1 2001:4:112::1 2001:20::1 2001:30::1 2001:200::1
    2620:4f:8000::1 3ffe::1 3fff:1000::1
    ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:101:101::1
    ::ffff:192.0.0.9
"""
SPECIAL = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255
    192.0.0.0 192.0.0.8 192.0.0.11 192.0.0.170 192.0.2.1 192.88.99.1 192.88.99.2 192.168.0.1 198.18.0.1 198.19.255.255
    198.51.100.1 203.0.113.1 224.0.0.1 233.252.0.1 239.1.1.1 240.0.0.1 255.255.255.255
    :: ::1 ::2 ::1.1.1.1 ::127.0.0.1 64:ff9b::a00:1 64:ff9b::c000:8 64:ff9b::c612:1 64:ff9b:1::101:101 100::1
    100:0:0:1::1
    1000::1 2001::1 2001:0:101:101:: 2001:1::4 2001:2::1 2001:5::1 2001:10::1 2001:40::1 2001:1ff::1 2001:db8::1
    2002:a00:1::1 2002:c612:1::1 2002:c058:6301::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254
    fe80::1 fec0::1 fe00::1 ff02::1 ff0e::1 ::ffff:10.0.0.1 ::ffff:198.18.0.1 ::ffff:192.88.99.1 ::ffff:0:1.1.1.1
    fe80::1%eth0 2606:4700::1%eth0
"""


@pytest.mark.parametrize("text", (PUBLIC + SPECIAL).split())
def test_an_address_is_judged_as_the_registries_say(text: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert is_public(address) is (text in PUBLIC.split()), describe_special(address)


@given(st.ip_addresses())
def test_every_address_is_public_or_something_with_a_name(
    address: Address,
) -> None:
    what = describe_special(address)
    assert what is None or what.startswith(("a ", "an "))
    if is_loopback(address):
        assert what is not None


def test_client_and_sandbox_judge_alike() -> None:
    for text in (PUBLIC + SPECIAL).split():
        address = parse_address(text)
        assert address is not None
        try:
            vet_address(address, allow_private=False)
            visits = True
        except InvalidRequestError:
            visits = False
        assert visits is URLPolicy(allow_loopback=True).allows(text, host="a.example"), text
