"""Proxies from URLs and from the environment: which is chosen, what is refused, and that no password is repeated."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._wire.proxies import choose_proxy, parse_proxy
from aistemsplitter_async.errors import ConfigurationError

API = "https://api.example.org/v1/credits"
OURS = "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    ("text", "url", "place"),
    [
        ("http://localhost:3128", "http://localhost:3128", "localhost:3128"),
        ("HTTP://Proxy:3128/", "http://proxy:3128", "proxy:3128"),
        ("http://proxy", "http://proxy:80", "proxy:80"),
        ("https://proxy", "https://proxy:443", "proxy:443"),
        ("http://[::1]:3128", "http://[::1]:3128", "[::1]:3128"),
        ("http://bücher.example:1", "http://xn--bcher-kva.example:1", "xn--bcher-kva.example:1"),
    ],
)
def test_a_proxy_is_its_normal_url(text: str, url: str, place: str) -> None:
    proxy = parse_proxy(text)
    assert (proxy.url, str(proxy), proxy.authorization) == (url, place, None)


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("me:p%40s%2Fs", b"me:p@s/s"),
        ("me", b"me:"),
        ("j%C3%BCrgen:%E2%82%AC", "jürgen:€".encode()),
        ("a:b:c", b"a:b:c"),
    ],
)
def test_credentials_are_for_one_header_and_for_nobody_elses_eyes(userinfo: str, pair: bytes) -> None:
    proxy = parse_proxy(f"http://{userinfo}@proxy:3128")
    assert proxy.authorization is not None
    assert proxy.authorization.reveal() == f"Basic {base64.b64encode(pair).decode()}"
    assert (proxy.url, str(proxy)) == ("http://proxy:3128", "proxy:3128")
    assert userinfo not in repr(proxy)
    assert proxy.authorization.reveal() not in repr(proxy)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        (" http://hunter2:3128", "white space"),
        ("http://hunter2:3128\n", "white space"),
        ("hunter2:3128", "it has no scheme; write http:// before it"),
        ("user:hunter2@proxy:3128", "it has no scheme"),
        ("htp://hunter2:3128", "its scheme must be http or https, not htp"),
        ("socks5://user:hunter2@proxy:1080", "socks5 proxies are not supported here; name an HTTP proxy, or"),
        ("socks5h://hunter2:1080", "connector_factory"),
        ("http://user:hunter2@proxy:3128/path", "it has a path"),
        ("http://proxy:3128/hunter2", "it has a path"),
        ("http://proxy:3128?hunter2", "it has a path, a query"),
        ("http://hunter2:0", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://hunter2:70000", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://user:hunter2", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://:3128", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://user:hunter2@", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://[::1:3128", "it has no host, or its host or its port (1 to 65535) is invalid"),
        ("http://user:hunter@2@proxy:3128", "write @ as %40"),
        ("http://user:hunter2/@proxy:3128", "write @ as %40"),
        ("http://user:hunter2%@proxy:3128", "% as %25"),
        ({"https": "http://hunter2"}, "a URL as text, not dict"),
    ],
)
def test_a_bad_proxy_is_refused_with_the_reason_and_without_its_words(text: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_proxy(text, name="HTTPS_PROXY")
    message = str(caught.value)
    assert message.startswith("HTTPS_PROXY: ")
    assert problem in message
    assert "; " in message
    assert "hunter" not in message


@given(st.text())
def test_any_text_is_a_proxy_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://{text}:3128", f"http://user:{text}@proxy"):
        try:
            proxy = parse_proxy(url)
        except ConfigurationError:
            continue
        assert parse_proxy(proxy.url) == attrs_without(proxy)


def attrs_without(proxy: Any) -> Any:
    return type(proxy)(proxy.url, proxy.host, proxy.port)


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({}, None),
        ({"HTTPS_PROXY": OURS}, OURS),
        ({"https_proxy": OURS, "HTTPS_PROXY": "http://other"}, OURS),
        ({"https_proxy": "", "HTTPS_PROXY": OURS, "ALL_PROXY": OURS}, None),
        ({"HTTP_PROXY": OURS}, None),
        ({"ALL_PROXY": OURS}, OURS),
        ({"HTTPS_PROXY": OURS, "all_proxy": "socks5://x"}, OURS),
        ({"HTTPS_PROXY": "proxy.example.com:3128"}, OURS),
        ({"HTTPS_PROXY": f"{OURS}\n"}, OURS),
    ],
)
def test_the_environment_is_read_as_curl_does(environment: dict[str, str], chosen: str | None) -> None:
    proxy = choose_proxy(API, environment)
    assert (proxy.url if proxy else None) == chosen


def test_a_visitor_of_a_cgi_program_names_no_proxy() -> None:
    environment = {"HTTP_PROXY": OURS, "REQUEST_METHOD": "GET"}
    assert choose_proxy("http://api.example.org/", environment) is None
    assert choose_proxy("http://api.example.org/", {"HTTP_PROXY": OURS}) is not None
    assert choose_proxy("http://api.example.org/", environment | {"http_proxy": OURS}) is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "127.9.9.9", "[::1]:1"])
def test_this_machine_is_never_reached_through_a_proxy(host: str) -> None:
    for scheme in ("http", "https"):
        assert choose_proxy(f"{scheme}://{host}/v1", {"http_proxy": OURS, "https_proxy": OURS}) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", API, True),
        ("example.org", API, True),
        (".example.org", API, True),
        ("*.example.org", API, True),
        ("EXAMPLE.org.", API, True),
        ("api.example.org", "https://api.example.org./x", True),
        ("ample.org", API, False),
        ("i.example.org", API, False),
        ("a,b example.org", API, True),
        ("example.org:443", API, True),
        ("example.org:8443", API, False),
        ("example.org:8443", "https://api.example.org:8443/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.1.2.3/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.0.0.0/8", "https://10.example.org/", False),
        ("fd00::/8", "https://[fd00::1]:8/", True),
        ("192.0.2.7", "https://192.0.2.7:99/", True),
        ("192.0.2.7:98", "https://192.0.2.7:99/", False),
        ("2001:db8::0:1", "https://[2001:db8::1]/", True),
        ("[2001:db8::1]:443", "https://[2001:db8::1]/", True),
        ("", API, False),
        (" , ", API, False),
        (".", API, False),
        ("[2001:db8::1]", "https://[2001:db8::1]:8/", True),
        ("[2001:db8::1]:98", "https://[2001:db8::1]:99/", False),
        ("10.0.0.0/99", "https://10.1.2.3/", False),
        ("https://api.example.org", API, False),
        ("/var/run/docker.sock,example.org", API, True),
    ],
)
def test_no_proxy_names_suffixes_ports_and_networks(no_proxy: str, url: str, direct: bool) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert (choose_proxy(url, {"https_proxy": OURS, name: no_proxy}) is None) == direct


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HTTPS_PROXY": "htp://user:hunter2@x"}, "HTTPS_PROXY: its scheme must be http or https"),
        ({"all_proxy": "socks5://user:hunter2@x"}, "all_proxy: socks5 proxies are not supported here"),
        ({"https_proxy": "proxy:hunter2"}, "https_proxy: it has no host, or its host or its port"),
    ],
)
def test_a_bad_variable_is_named_where_it_would_be_used(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_proxy(API, environment)
    assert str(caught.value).startswith(message)
    assert "hunter2" not in str(caught.value)
    assert choose_proxy("http://localhost:1/", environment) is None
