"""`dispatcher tenants`: the customer accounts there are."""

import typer

from dispatcher.cli import output
from dispatcher.cli.listings import print_list
from dispatcher.cli.options import register
from dispatcher.cli.service import SERVICE, Service
from dispatcher.client import Tenant, calls


def add(app: typer.Typer, panel: str) -> None:
    """Register the command."""
    shown = ("dispatcher tenants", "dispatcher tenants --json")
    register(app, "tenants", show_all, shown, panel=panel, makers=SERVICE)


def show_all(service: Service) -> None:
    """List the tenants. One comes into being when a platform key first uses it."""
    made = output.table("TENANT", "SINCE", "AGE")

    def row(tenant: Tenant) -> None:
        age = output.ago(tenant.created_at)
        made.add_row(output.plain(tenant.name), output.stamp(tenant.created_at), age)

    print_list(service, calls.tenants, Tenant, made, row, "no tenants yet")
