"""Which database: told by the URL."""

from receiver.base.db.url import is_postgres
from receiver.handling.effects.base import Effects, EffectsError
from receiver.handling.effects.sqlite import SqliteEffects
from receiver.settings import Settings, database_path

DRIVER_MISSING = 'PostgreSQL needs its driver: pip install "postback[postgres]"'


def open_effects(settings: Settings) -> Effects | None:
    """Return the customer's database, with our table in it; None where the settings name none.
    Raises EffectsError."""
    if settings.effects_url is None:
        return None
    effects = _effects(settings.effects_url, settings)
    effects.prepare()
    return effects


def _effects(url: str, settings: Settings) -> Effects:
    if not is_postgres(url):
        return SqliteEffects(database_path(url, "effects_url"))
    try:
        from receiver.handling.effects.postgres import PostgresEffects
    except ImportError:
        raise EffectsError(DRIVER_MISSING) from None
    return PostgresEffects(
        url, idle_max=settings.handler_concurrency, handler_s=settings.handler_timeout
    )
