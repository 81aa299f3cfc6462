"""The customer's own database, where an effect and our mark of it commit together.

Our table there, `postback_handled`, is the one that counts: the inbox keeps a copy of what it
says. Nothing else in that database is touched.
"""

from typing import Final

from receiver.base.db.url import is_postgres
from receiver.handling.effects.sqlite import SqliteEffects
from receiver.handling.tx import Effects, EffectsError
from receiver.settings import Settings, database_path

DRIVER_MISSING: Final = 'PostgreSQL needs its driver: pip install ".[postgres]" in a checkout'


def open_effects(settings: Settings) -> Effects | None:
    """Return the customer's database, with our table in it; None where the settings name none.
    Raises EffectsError."""
    url = settings.effects_url
    if url is None:
        return None
    effects: Effects
    if is_postgres(url):
        try:
            from receiver.handling.effects.postgres import PostgresEffects
        except ImportError:
            raise EffectsError(DRIVER_MISSING) from None
        effects = PostgresEffects(
            url, idle_max=settings.handler_concurrency, handler_s=settings.handler_timeout
        )
    else:
        effects = SqliteEffects(database_path(url, "effects_url"))
    effects.prepare()
    return effects
