"""The command line for the user's own ssh, and what its log says of failures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plush_worker.mesh.openssh_command import PinsFile, ssh_arguments
from plush_worker.mesh.openssh_errors import explain, has_logged_in, names_failure
from plush_worker.model import HostEntry, SliceSettings

ENTRY = HostEntry(name="box", address="10.0.0.1", port=2222, user="me")

# As OpenSSH 9.2 writes them, with the lines around.
LOGS = {
    "refused": "debug1: Connecting to h [127.0.0.1] port 1.\n"
    "debug1: connect to address 127.0.0.1 port 1: Connection refused\n"
    "ssh: connect to host h port 1: Connection refused\n",
    "name": "ssh: Could not resolve hostname nope.invalid: Name or service not known\n",
    "unreachable": "ssh: connect to host 192.0.2.1 port 22: Network is unreachable\n",
    "timeout": "ssh: connect to host 192.0.2.1 port 22: Connection timed out\n",
    "timeout ": "Connection timed out during banner exchange\nConnection to 127.0.0.7 port 9 timed out\n",
    "host_key": "@@@@@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@@@@@@@@\n"
    "IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\nHost key verification failed.\n",
    "host_key ": "No ED25519 host key is known for h and you have requested strict checking.\n"
    "Host key verification failed.\n",
    "auth": "debug1: Authentications that can continue: publickey,keyboard-interactive\n"
    "debug1: Offering public key: /k ED25519 SHA256:abc explicit\n"
    "debug1: No more authentication methods to try.\nme@h: Permission denied (publickey,keyboard-interactive).\n",
    "auth ": "Received disconnect from 127.0.0.1 port 22:2: Too many authentication failures\n",
    "eof": "kex_exchange_identification: Connection closed by remote host\nConnection closed by 127.0.0.1 port 22\n",
    "protocol": "Unable to negotiate with 127.0.0.1 port 22: no matching key exchange method found. Their offer: x\n",
    "protocol ": "command-line: line 0: Bad configuration option: nonsense\n",
}


@pytest.mark.parametrize("case", LOGS)
def test_failures_are_told_apart(case: str) -> None:
    error = explain(LOGS[case], "", 255, "box")
    assert error.code == case.strip()
    assert "status 255" in error.detail
    assert "debug1: Connecting" not in error.detail
    assert names_failure(LOGS[case])


def test_advice() -> None:
    assert "plush hosts trust -w box" in explain(LOGS["host_key"], "", 255, "box").detail
    denied = explain(LOGS["auth"], "", 255, "box").detail
    assert "/k ED25519" in denied
    assert "ControlMaster" in denied
    assert "it gave no reason" in explain("", "", None, "box").detail


def test_what_a_sound_session_logs_is_no_failure() -> None:
    log = (
        'Authenticated to h ([127.0.0.1]:22) using "publickey".\ndebug1: Entering interactive session.\n'
        "debug1: client_input_channel_req: channel 0 rtype exit-status reply 0\n"
        "Transferred: sent 2, received 3 bytes, in 0.1 seconds\ndebug1: Exit status 255\n"
    )
    assert has_logged_in(log)
    assert not names_failure(log)
    assert names_failure(log + "client_loop: send disconnect: Broken pipe\n")
    assert not has_logged_in("debug1: Next authentication method: publickey\n")


def arguments(entry: HostEntry, settings: SliceSettings | None = None, pins: str = "") -> list[str]:
    return ssh_arguments(entry, settings or SliceSettings(), pins, "/log")


def test_the_name_people_wrote_comes_last_so_that_their_configuration_matches_it() -> None:
    words = arguments(replace(ENTRY, name="other@-box"))
    assert words[-2:] == ["--", "-box"]
    assert "HostName=10.0.0.1" in words
    assert words[words.index("-l") + 1] == "me"


def test_what_the_entry_says_is_passed_with_tokens_escaped() -> None:
    entry = replace(ENTRY, identity_files=("/a b%c",), identity_agent="/s%", identities_only=True, config_file="/cfg")
    entry = replace(entry, proxy_command="nc %h 100%", host_key_alias="alias", address_family="inet6")
    words = arguments(replace(entry, certificate_files=("/c",)))
    for expected in (
        "/a b%%c",
        'IdentityAgent="/s%%"',
        "IdentitiesOnly=yes",
        "ProxyCommand=nc 10.0.0.1 100%%",
        "HostKeyAlias=alias",
        "/cfg",
        "AddressFamily=inet6",
        'CertificateFile="/c"',
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
    ):
        assert expected in words
    assert not [word for word in words if word.startswith("ForwardAgent")]


def test_agent_forwarding_and_jumps() -> None:
    jump = HostEntry(name="j", address="::1", port=2200, user="u").to_json()
    words = arguments(replace(ENTRY, jumps=(jump,)), SliceSettings(inner_login="agent"))
    assert "ForwardAgent=yes" in words
    assert "ProxyJump=u@[::1]:2200" in words
    assert "ProxyJump=a,b:22" in arguments(replace(ENTRY, proxy_jump="a,b:22"))


def test_known_hosts_of_the_entry_replace_the_users_own() -> None:
    entry = replace(ENTRY, known_hosts_file="/mine")
    assert not [word for word in arguments(entry) if "KnownHostsFile" in word]
    pinned = arguments(entry, pins="/pins")
    assert 'UserKnownHostsFile="/pins"' in pinned
    assert "GlobalKnownHostsFile=/dev/null" in pinned
    accepting = arguments(replace(entry, accept_new=True), pins="/pins")
    assert 'UserKnownHostsFile="/mine" "/pins"' in accepting
    assert "StrictHostKeyChecking=accept-new" in accepting


def test_pins_are_a_file_that_needs_no_removal() -> None:
    pins = PinsFile(replace(ENTRY, known_hosts=("ssh-ed25519 AAAA", "@cert-authority ssh-rsa BBBB")))
    try:
        with open(pins.path, encoding="utf-8") as file:
            assert file.read() == "* ssh-ed25519 AAAA\n@cert-authority * ssh-rsa BBBB\n"
    finally:
        pins.close()
    assert PinsFile(ENTRY).path == ""
