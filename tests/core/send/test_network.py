"""What a client's arguments make of its network."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from aistemsplitter_async._send.network import build_network
from aistemsplitter_async.errors import ConfigurationError

LOCAL = "http://127.0.0.1:8080/v1"


def test_the_text_of_a_network_has_no_password() -> None:
    """It is among the variables that a tracker of errors sends away."""
    variables = {"HTTPS_PROXY": "http://me:hunter2@proxy.example.com"}
    for proxy in (None, variables["HTTPS_PROXY"]):
        network = build_network(
            "https://api.example.org/v1",
            proxy=proxy,
            trust_env=proxy is None,
            environment=variables,
            ssl=None,
            connector_factory=None,
        )
        assert str(network.proxy_for("https://api.example.org/v1")) == "proxy.example.com:80"
        assert "hunter2" not in repr(network)


@pytest.mark.parametrize(
    ("url", "proxy", "refused"),
    [
        (LOCAL, "http://proxy.example.com", True),
        (LOCAL, "https://10.0.0.1", True),
        (LOCAL, "http://localhost:3128", False),
        (LOCAL.replace("http", "https"), "http://proxy.example.com", False),  # in a tunnel
        ("http://nas.local/v1", "http://proxy.example.com", False),  # its plain http was allowed by name
    ],
)
def test_the_key_for_this_machine_is_not_sent_to_another(url: str, proxy: str, refused: bool) -> None:
    expected = pytest.raises(ConfigurationError, match="would get the API key in clear") if refused else nullcontext()
    with expected:
        build_network(url, proxy=proxy, trust_env=False, environment={}, ssl=None, connector_factory=None)
