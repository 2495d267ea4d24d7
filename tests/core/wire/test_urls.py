"""Which URLs from a reply may be requested: the public internet over https, and hosts that the user allowed by name."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._addresses import is_loopback, is_public, parse_address
from aistemsplitter_async._wire.urls import URLPolicy, is_loopback_url, is_url
from aistemsplitter_async.errors import ConfigurationError, UnsafeURLError

PUBLIC = URLPolicy()
LOCAL = URLPolicy(allow_loopback=True)
NAS = URLPolicy(allow_hosts=["nas.local", "10.0.0.7"])
ALLOWED = [
    "https://cdn.example/vocals.mp3?sig=a%2Fb",
    "https://cdn.example:8443/x",
    "https://cdn.example.:443/x",
    "HTTPS://CDN.EXAMPLE/x",
    "https://xn--mnchen-3ya.example/x",
    "https://a_b.example/",
    "https://1.1.1.1/",
    "https://[2606:4700:4700::1111]/",
    "https://[::ffff:1.1.1.1]/",
    "https://[64:ff9b::101:101]/",
    "https://[2002:101:101::1]/",
    "https://8ball.example/",
    "https://localhost.example/",
    "https://cdn.example/%0d%0a",
    "https://cdn.example/ x",
    "https://1.1.1.0x1/",
    "https://münchen.example/",
    "https://\uff43dn.example/",
]
REFUSED = [
    # not https
    "http://cdn.example/",
    "ftp://cdn.example/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "data:audio/wav;base64,AAAA",
    "javascript:alert(1)",
    "gopher://cdn.example/",
    "//cdn.example/x",
    "cdn.example/x",
    "/x",
    "",
    "https:",
    "https:/cdn.example/x",
    "https:///x",
    "https://",
    "https://?x",
    # credentials
    "https://me@cdn.example/",
    "https://me:pw@cdn.example/",
    "https://@cdn.example/",
    "https://:@cdn.example/",
    "https://cdn.example@127.0.0.1/",
    "https://cdn.example%40127.0.0.1/",
    # this machine
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://api.localhost/",
    "https://api.LocalHost./",
    "https://127.0.0.1/",
    "https://127.255.255.254/",
    "https://127.0.0.1./",
    "https://0.0.0.0/",
    "https://[::1]/",
    "https://[::]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::1%25lo]/",
    "https://[fe80::1%25eth0]/",
    "https://[2606:4700:4700::1111%25eth0]/",
    # other spellings of IPv4
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.1/",
    "https://127.0.1/",
    "https://4294967296/",
    "https://256.256.256.256/",
    "https://127.0.0.1.2130706433/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127。0。0。1/",
    "https://①②⑦.⓪.⓪.①/",
    "https://127%2e0%2e0%2e1/",
    # private, shared, reserved
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://100.64.0.1/",
    "https://100.127.255.254/",
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.170.2/",
    "https://192.0.0.1/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://224.0.0.1/",
    "https://239.255.255.250/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[ff0e::1]/",
    "https://[2001:db8::1]/",
    "https://[100::1]/",
    "https://[4000::1]/",
    # IPv4 inside IPv6
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[2001:0:7f00:1::]/",
    # not URLs, or read differently by different parsers
    "https://[/",
    "https://[::1/",
    "https://]/",
    "https://[127.0.0.1]/",
    "https://[v1.x]/",
    "https://cdn.example:99999/",
    "https://cdn.example:-1/",
    "https://cdn.example:x/",
    "https://cdn.example\\@127.0.0.1/",
    "https:\\\\cdn.example\\x",
    " https://cdn.example/",
    "https://cdn.example/\r\nHost: evil",
    "https://cdn.exa\tmple/",
    "\thttps://cdn.example/",
    "https://cdn.example\n/",
    "https://cdn.example/\x00",
    "ht\ntps://cdn.example/",
    "https://cdn..example/",
    "https://.example/",
    "https://cdn,example/",
    "https://cdn%00.example/",
    "https://\ud800.example/",
]


@pytest.mark.parametrize("url", ALLOWED)
def test_a_public_https_url_may_be_visited(url: str) -> None:
    PUBLIC.vet(url)
    URLPolicy(allow_loopback=True, allow_hosts=["other.example"]).vet(url)


@pytest.mark.parametrize("url", REFUSED)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(UnsafeURLError) as caught:
        URLPolicy(allow_hosts=["other.example"]).vet(url)
    assert str(caught.value).isprintable()


def test_the_refusal_shows_neither_credentials_nor_query() -> None:
    with pytest.raises(UnsafeURLError) as caught:
        PUBLIC.vet("https://me:SECRET@cdn.example/x?sig=SECRET#SECRET")
    assert "SECRET" not in str(caught.value)
    assert "https://cdn.example/x" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/x", "https://localhost/x", "http://LOCALHOST:1/", "http://[::1]:5/", "http://127.8.8.8/"],
)
def test_loopback_is_allowed_only_where_the_api_itself_is_there(url: str) -> None:
    LOCAL.vet(url)
    with pytest.raises(UnsafeURLError):
        PUBLIC.vet(url)


LOOPBACK = {
    "https://localhost/",
    "https://LOCALHOST/",
    "https://127.0.0.1/",
    "https://127.255.255.254/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://localhost./",
    "https://127.0.0.1./",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.1/",
    "https://127.0.1/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127。0。0。1/",
    "https://①②⑦.⓪.⓪.①/",
    "https://127%2e0%2e0%2e1/",
}


@pytest.mark.parametrize("url", sorted(LOOPBACK))
def test_the_loopback_exception_covers_every_spelling_of_loopback(url: str) -> None:
    LOCAL.vet(url)


def test_the_loopback_exception_widens_nothing_but_loopback() -> None:
    for url in REFUSED:
        if url not in LOOPBACK:
            with pytest.raises(UnsafeURLError):
                LOCAL.vet(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://cdn.example/",
        "http://localhost.evil.example/",
        "http://127.0.0.1.evil.example/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://me@localhost/",
        "file://localhost/etc/passwd",
        "ftp://127.0.0.1/",
        "http://169.254.169.254/",
    ],
)
def test_what_only_resembles_loopback_is_not(url: str) -> None:
    with pytest.raises(UnsafeURLError):
        LOCAL.vet(url)


@pytest.mark.parametrize(
    "url", ["http://nas.local/x", "https://nas.local:8443/x", "HTTP://NAS.LOCAL/x", "http://10.0.0.7/x"]
)
def test_an_excepted_host_is_trusted_over_http_too(url: str) -> None:
    NAS.vet(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://sub.nas.local/",
        "http://nas.local.evil.example/",
        "http://evilnas.local/",
        "http://evil.example/nas.local",
        "http://evil.example?nas.local",
        "http://nas.local@evil.example/",
        "http://me:pw@nas.local/",
        "ftp://nas.local/",
        "file://nas.local/etc/passwd",
        "http://10.0.0.8/",
        "http://nas.local:99999/",
        "http://nas.local\\@evil.example/",
    ],
)
def test_an_excepted_host_excepts_itself_and_nothing_else(url: str) -> None:
    with pytest.raises(UnsafeURLError):
        NAS.vet(url)


SPELT = [
    (["NAS.Local"], "http://nas.local/x"),
    (["nas.local."], "http://nas.local:9000/x"),
    ([" nas.local "], "http://NAS.local./x"),
    (["münchen.example"], "http://xn--mnchen-3ya.example/"),
    (["xn--mnchen-3ya.example"], "http://MÜNCHEN.example/"),
    (["0x0a000007"], "http://10.0.0.7/"),
    (["10.7"], "http://10.0.0.7/"),
    (["fd00::7"], "http://[fd00:0:0:0::7]/"),
    (["[FD00:0::7]"], "http://[fd00::7]:1/"),
    (["nas.local:9000"], "http://nas.local:09000/"),
    (["[fd00::7]:9000"], "http://[fd00::7]:9000/"),
    (["nas.local:443"], "https://nas.local/"),
]


@pytest.mark.parametrize(("hosts", "url"), SPELT)
def test_an_excepted_host_is_found_in_any_spelling(hosts: list[str], url: str) -> None:
    policy = URLPolicy(allow_hosts=hosts)
    policy.vet(url)
    assert URLPolicy(allow_hosts=policy.allow_hosts) == policy


def test_an_exception_with_a_port_is_for_that_port_alone() -> None:
    policy = URLPolicy(allow_hosts=["nas.local:9000"])
    with pytest.raises(UnsafeURLError):
        policy.vet("http://nas.local/")
    assert policy.allows("10.0.0.7", host="nas.local", port=9000)
    assert not policy.allows("10.0.0.7", host="nas.local", port=443)


@pytest.mark.parametrize(
    "text",
    [
        "https://nas.local",
        "nas.local/x",
        "10.0.0.0/8",
        "*.lan",
        "",
        "a b",
        "me@nas.local",
        "nas:0",
        "nas:99999",
        "[nas]",
    ],
)
def test_an_exception_that_is_no_host_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"nas\.local:9000"):
        URLPolicy(allow_hosts=[text])


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("https://198.18.0.7/x", "VPNs and proxies hand out"),
        ("https://100.64.1.1/x", "CGNAT"),
        ("https://192.168.1.1/x", "private network"),
        ("http://cdn.example/x", "only https"),
    ],
)
def test_a_refusal_says_what_the_address_is_and_names_the_way_out(url: str, what: str) -> None:
    with pytest.raises(UnsafeURLError, match=what) as caught:
        PUBLIC.vet(url)
    assert "allow_hosts (--allow-host)" in str(caught.value)


def test_so_does_that_of_a_name_that_leads_there() -> None:
    said = str(PUBLIC.build_refusal("cdn.example", ["198.18.0.7", "198.18.0.8"]))
    assert "'cdn.example': it leads to 198.18.0.7, an address for benchmarks, which VPNs" in said
    assert "allow_hosts" in said


@given(st.text() | st.text("htps:/@[]%.0127xlocahst\\ \t#?").map(lambda text: "https://" + text))
def test_any_text_is_vetted_without_another_error(url: str) -> None:
    for policy in (PUBLIC, LOCAL):
        try:
            policy.vet(url)
        except UnsafeURLError:
            continue
        assert url.lower().startswith(("https://", "http://"))


@given(st.ip_addresses(v=4))
def test_wrapping_an_ipv4_address_never_makes_it_more_public(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for wrapped in (
        ipaddress.IPv6Address(number),
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0xFFFF << 48) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
        ipaddress.IPv6Address((0x64FF9B0001 << 80) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ):
        assert is_public(address) or not is_public(wrapped)


@given(st.ip_addresses(v=6))
def test_only_the_block_given_to_the_public_internet_is_public(address: ipaddress.IPv6Address) -> None:
    if is_public(address):
        embedded = address.ipv4_mapped or (address in ipaddress.IPv6Network("64:ff9b::/96"))
        assert embedded or address in ipaddress.IPv6Network("2000::/3")
    assert PUBLIC.allows(str(address), host="cdn.example") is is_public(address)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("0.0.0.0", False),  # noqa: S104  # not bound to
        ("::", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_this_machine_and_not_the_one_of_a_gateway(host: str, loopback: bool) -> None:
    address = parse_address(host)
    assert address is not None
    assert is_loopback(address) is loopback
    assert LOCAL.allows(host, host="cdn.example") is loopback
    assert not PUBLIC.allows(host, host="cdn.example")
    assert NAS.allows(host, host="nas.local")


@pytest.mark.parametrize(
    "url", ["http://localhost.example/", "http://localhost..", "https://api.example/", "localhost", ""]
)
def test_a_base_url_elsewhere_is_not_loopback(url: str) -> None:
    assert not is_loopback_url(url)


def test_only_the_web_is_fetched_by_the_service() -> None:
    assert is_url("https://x.example/a")
    assert is_url("HTTP://x.example/a")
    assert not is_url("httpsing.mp3")
    assert not is_url("file:///a")
