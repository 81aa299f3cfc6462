"""The client for ordinary code is made out of the one for asyncio."""

import pytest

from tests.dispatcher.client.generate import SOURCE, TARGET, generate


def test_the_committed_client_is_what_aio_makes() -> None:
    """`make generate` would change nothing."""
    assert TARGET.read_text("utf-8") == generate(SOURCE.read_text("utf-8"))


def test_a_rule_without_a_use_is_refused() -> None:
    """A rule that matches nothing any more would hide what it was for."""
    source = SOURCE.read_text("utf-8").replace("asyncio.sleep", "anyio.sleep")
    with pytest.raises(ValueError, match="sleep"):
        generate(source)
