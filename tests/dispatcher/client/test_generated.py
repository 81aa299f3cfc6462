"""The clients for ordinary code are made out of those for asyncio."""

import pytest

from tests.dispatcher.client.generate import FILES, generate, sources


def test_the_committed_clients_are_what_those_for_asyncio_make() -> None:
    """`make generate` would change nothing."""
    assert {path: path.read_text("utf-8") for path in FILES.values()} == generate(sources())


def test_a_rule_without_a_use_is_refused() -> None:
    """A rule that matches nothing any more would hide what it was for."""
    changed = {
        path: text.replace("asyncio.sleep", "anyio.sleep") for path, text in sources().items()
    }
    with pytest.raises(ValueError, match="sleep"):
        generate(changed)
