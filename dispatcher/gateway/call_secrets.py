"""What calls are signed with: each endpoint's own secret, which its upstream's operator has to
verify them. So nobody who has it can forge what customers get, nor another upstream's calls."""

from collections.abc import Callable, Sequence

from dispatcher.access import new_secret
from dispatcher.gateway.header_values import VALUES, HeaderValues, signing_of
from dispatcher.jobs.endpoint import Endpoint
from dispatcher.signing import SecretCache, Secrets
from dispatcher.store.jobs.store import JobStore
from dispatcher.values import SigningSecret
from receiver.base.clock import now_ms
from receiver.base.lack import OwnLack
from receiver.base.settings import SettingError


class CallSecrets:
    """The endpoints' secrets, kept in memory as tenants' are: where the server's file says where
    one stands, that, else the one that is stored, which is made where there is none yet."""

    def __init__(
        self, store: JobStore, values: HeaderValues, *, clock: Callable[[], int] = now_ms
    ) -> None:
        self._store = store
        self._values = values
        self._clock = clock
        self._stored = SecretCache(self.all_of)

    async def of(self, endpoint: Endpoint) -> Secrets:
        """Return what signs a call now. Raises OwnLack for what cannot be had or opened, NotFound
        for an endpoint that was removed, and what the database does where nothing was read
        before."""
        ref = endpoint.rules.signing_secret
        if ref is None:
            return await self._stored.for_delivery(endpoint.name, "", self._clock())
        try:
            return signing_of(ref, await self._values.get(ref))
        except SettingError as error:
            raise OwnLack(VALUES, str(error)) from None

    async def all_of(self, name: str) -> Sequence[SigningSecret]:
        """Return the stored secrets of an endpoint, newest first: one at least, since it is made
        where there is none (an endpoint of before has none until it is used). Raises NotFound."""
        found = await self._store.endpoint_secrets(name)
        if found:
            return found
        made = new_secret("", self._clock(), endpoint=name)
        return await self._store.ensure_endpoint_secret(made)

    def forget(self, name: str) -> None:
        """Read an endpoint's again at their next use: they have changed."""
        self._stored.forget(name)

    def forget_all(self) -> None:
        """Read all again at their next use: another process changed some."""
        self._stored.forget_all()
