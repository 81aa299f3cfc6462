"""No command tells a success that its service has not told: an answer is read before it counts."""

import pytest

from dispatcher.cli import main
from dispatcher.client import BadAnswer, Client
from tests.defects.wrong import Wrong, saying, serving

HTML = b"<html>hello</html>"
COMMANDS = [
    ["send", "--job-id", "j", "--to", "http://x", "--payload", "1"],
    ["send", "--job-id", "j", "--to", "http://x", "--payload", "1", "--wait"],
    ["keys", "revoke", "key_1"],
    ["keys", "list"],
    ["keys", "create", "--scope", "read"],
    ["secrets"],
    ["secrets", "list"],
    ["secrets", "reveal"],
    ["secrets", "rotate"],
    ["show", "cb_1"],
    ["show", "cb_1", "--payload"],
    ["stats"],
    ["list"],
    ["list", "--all"],
    ["tenants"],
    ["destinations", "list"],
    ["destinations", "show", "x"],
    ["destinations", "add", "x", "https://example.com/"],
    ["destinations", "set", "x", "--rate", "1"],
    ["destinations", "remove", "x", "--yes"],
    ["destinations", "test", "x"],
    ["replay", "cb_1"],
    ["replay", "--status", "dead", "--yes"],
    ["replay", "--status", "dead", "--dry-run"],
    ["cancel", "cb_1"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("status", "body"), [(200, HTML), (200, b"{}"), (200, b""), (200, b"[]")])
def test_a_command_fails_on_what_is_no_answer(
    command: list[str], status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 and one clear line, with `--json` and without: nothing was done, or nobody knows."""
    with serving(saying(status, body)) as url:
        for form in ([], ["--json"]):
            code = main(["--url", url, "--api-key", "k", *form, *command])
            out, err = capsys.readouterr()
            assert (code, out) == (1, "")
            assert "not this version of Postback's" in err
            assert "is that really the dispatcher's URL?" in err


@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("body", [HTML, b"{}", b""])
def test_what_is_taken_away_is_gone_only_when_the_service_says_so(status: int, body: bytes) -> None:
    """Revoking a key and removing a destination are answered 204, and by nothing else."""
    if status == 204 and body:
        return  # no HTTP
    with serving(saying(status, body)) as url, Client(url, "k") as client:
        for call in (client.revoke_key, client.remove_destination):
            if status == 204:
                call("x")
            else:
                with pytest.raises(BadAnswer):
                    call("x")


def test_a_payload_is_believed_with_its_digest() -> None:
    """Whatever stands between answers a page of its own: those are not the bytes."""
    with serving(saying(200, HTML)) as url:
        client = Client(url, "k")
        with client, pytest.raises(BadAnswer, match="digest"):
            client.payload("cb_1")


def test_a_doctor_knows_a_dispatcher_by_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    """`{"status": "UP"}` is ready, but it is not ours."""
    with serving(saying(200, b'{"status":"UP"}')) as url:
        assert main(["--url", url, "doctor", "--url", url]) == 1
    assert "is not a dispatcher" in " ".join(capsys.readouterr().out.split())


def test_a_redirect_is_followed_by_no_client() -> None:
    """And so no key goes where it leads."""
    seen = list[str]()

    class Redirecting(Wrong):
        def reply(self, body: bytes) -> None:
            seen.append(self.path)
            self.answer(302, b"", Location="/elsewhere")

    with serving(Redirecting) as url:
        client = Client(url, "k")
        with client, pytest.raises(BadAnswer, match="302"):
            client.stats()
    assert seen == ["/v1/stats"]
