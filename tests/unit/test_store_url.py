from __future__ import annotations

import pytest

from app.store_url import parse_store_url


@pytest.mark.parametrize(
    "url", ["redis://u:p@h:1/2?x=y", "rediss://h", "unix:///a/b?db=1", "http://h"]
)
def test_a_url_of_one_server_stays_as_it_is(url: str) -> None:
    """What names its server is left to the client, right or wrong."""
    address = parse_store_url(url)
    assert address == (url, (), "", {})


def test_sentinels_are_whom_to_ask() -> None:
    """The hosts are the sentinels, the path is the primary's name, the login is the primary's."""
    address = parse_store_url("redis+sentinel://ana:p%2Fw@h1:1,h2,[::1]:3/main?db=2")
    assert address.guides == (("h1", 1), ("h2", 26379), ("::1", 3))
    assert address.master_name == "main"
    assert address.server == "redis://ana:p%2Fw@h1:1/?db=2"
    assert address.sentinel_login == {}


def test_sentinels_have_a_login_of_their_own() -> None:
    """Their options are taken out of what a connection to the primary is told."""
    address = parse_store_url(
        "rediss+sentinel://h1/main?sentinel_password=p%26w&sentinel_username=bo&ssl_ca_certs=/a%20b"
    )
    assert address.sentinel_login == {"username": "bo", "password": "p&w"}
    assert address.server == "rediss://h1:26379/?ssl_ca_certs=%2Fa+b"


@pytest.mark.parametrize("path", ["", "/", "/0", "?db=0"])
def test_nodes_of_a_cluster_are_whom_to_ask(path: str) -> None:
    """The hosts are some of its nodes; there is one database."""
    address = parse_store_url(f"redis+cluster://:pw@h1:7000,h2:7001{path}")
    assert address.guides == (("h1", 7000), ("h2", 7001))
    assert address.master_name == ""
    assert address.server.startswith("redis://:pw@h1:7000/")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h1:1,h2:2",
        "redis+sentinel://h1:1/main/0",
        "redis+sentinel:///main",
        "redis+sentinel://h1:1,,h2:2/main",
        "redis+sentinel://h1:port/main",
        "redis+sentinel://:pass/word@h1/main",
        "redis+cluster://h1:7000/1",
        "redis+cluster://h1:7000?db=1",
        "unix+sentinel://h1/main",
        "redis+ring://h1",
    ],
)
def test_what_is_no_url_of_ours_is_refused(url: str) -> None:
    """A form that says too little, or something that there is not, is no URL of ours."""
    with pytest.raises(ValueError, match=r"."):
        parse_store_url(url)
