"""`dispatcher tenants`: who shares the service, what each may use and does use, and its end."""

import re
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from dispatcher.cli.service import ChangingDep, ServiceDep, print_list
from dispatcher.client import Tenant, TenantDetail
from dispatcher.client.calls import tenant as calls
from receiver.base import cli
from receiver.base.helps import examples
from receiver.base.options import command, with_dependencies

_DEFAULT: Final = "default"
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?(|B|[KMGT]i?B?)", re.IGNORECASE)
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_EXAMPLES: Final = (
    "dispatcher tenants",
    "dispatcher tenants show acme",
    "dispatcher tenants set acme --storage 10GiB --rate 200 --label 'Acme Inc.'",
    "dispatcher tenants set acme --rate default",
    "dispatcher tenants delete acme",
)

app = typer.Typer()
group = typer.Typer(invoke_without_command=True, epilog=examples(*_EXAMPLES))
app.add_typer(group, name="tenants")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant, as `tenants` lists it.")]


@group.callback()
@with_dependencies
def overview(context: typer.Context, service: ServiceDep) -> None:
    """Tenants: list, show, set limits, delete

    Alone it lists them. One comes into being when a platform key first uses it.
    """
    if context.invoked_subcommand is None:
        list_tenants(service)


@command(group, "list", "dispatcher tenants list", "dispatcher tenants list --json")
def list_tenants(service: ServiceDep) -> None:
    """List the tenants."""
    made = cli.table("TENANT", "SINCE", "AGE", "LABEL")

    def row(tenant: Tenant) -> None:
        erasing = Text("being erased", style="yellow")
        label = cli.plain(tenant.label) if tenant.erasing_at is None else erasing
        age = cli.ago(tenant.created_at)
        made.add_row(cli.plain(tenant.name), cli.stamp(tenant.created_at), age, label)

    print_list(service, calls.tenants, made, row, "no tenants yet")


@command(group, "show", "dispatcher tenants show acme", "dispatcher tenants show acme --json")
def show_tenant(service: ServiceDep, name: Name) -> None:
    """Show a tenant's limits and what it uses of them."""
    _print(service.show(calls.get_tenant(name)))


@command(group, "set", _EXAMPLES[2], _EXAMPLES[3])
def set_limits(
    service: ChangingDep,
    name: Name,
    storage: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most that it may store: 500MiB, 10GiB."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Most of its deliveries that may wait.")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="PER_SECOND", help="Most submits a second, in each process."),
    ] = None,
    jobs_running: Annotated[
        str | None,
        typer.Option(
            metavar="COUNT", help="Most of its jobs that run at once, over all endpoints."
        ),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most that outputs of its jobs may have of that."),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Who it is.")] = None,
) -> None:
    """Change a tenant's limits. `default` puts one back to the service's."""
    changes: dict[str, Any] = {}
    if storage is not None:
        changes["storageBytesMax"] = None if storage == _DEFAULT else size(storage)
    if outputs is not None:
        changes["outputsBytesMax"] = None if outputs == _DEFAULT else size(outputs)
    if queue is not None:
        changes["queueMax"] = _count(queue, "--queue")
    if jobs_running is not None:
        changes["jobsRunningMax"] = _count(jobs_running, "--jobs-running")
    if rate is not None:
        changes["ratePerSecond"] = None if rate == _DEFAULT else _number(rate, "--rate")
    if label is not None:
        changes["label"] = label
    if not changes:
        raise typer.BadParameter(
            "name what to set: --storage, --queue, --rate, --jobs-running, --outputs or --label"
        )
    _print(service.show(calls.change_tenant(name, changes, reason=service.reason)))


@command(group, "delete", "dispatcher tenants delete acme", "dispatcher tenants delete acme --yes")
def delete_tenant(
    service: ChangingDep,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase a tenant with all that it has: callbacks, payloads, attempts, destinations, secrets,
    keys, replays. Its keys are worthless at once; the rest goes in the background, and cannot be
    brought back."""
    tenant = service.client.get_tenant(name)  # a misspelt name is told before anything is asked
    has = f"{cli.size(tenant.storage_bytes)} of callbacks, {tenant.queued:,} of them waiting"
    cli.confirm(f"Erase {cli.clean(name)} for good, with {has}?", yes=yes)
    erasing = service.client.erase_tenant(name, reason=service.reason)
    if service.json:
        cli.print_json(b"{}")
    elif erasing is None:
        cli.console().print(f"{cli.clean(name)} is erased")
    else:
        cli.console().print(
            f"{cli.clean(name)} is being erased; `dispatcher tenants show` finds it until it is"
        )


def size(text: str) -> int:
    """`500MiB`, `10g` or a number of bytes. Raises typer.BadParameter."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a size: write 500MiB, 10GiB or bytes")
    return round(float(found[1]) * _UNITS[found[2][:1].lower()])


def _count(text: str, option: str) -> int | None:
    """Return a number of something, None for the default."""
    return None if text == _DEFAULT else int(_number(text, option, whole=True))


def _number(text: str, option: str, *, whole: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or (whole and number != int(number)):
        raise typer.BadParameter(f"{option} {text!r} is no {'whole ' if whole else ''}number")
    return number


def _print(tenant: TenantDetail | None) -> None:
    if tenant is None:
        return
    out = cli.console()
    out.print(cli.plain(tenant.name, "bold").append(f"  {cli.clean(tenant.label)}", style="dim"))
    if tenant.erasing_at is not None:
        out.print(f"  being erased since {cli.ago(tenant.erasing_at)}", style="yellow")
    rate, running = tenant.rate_per_second, tenant.jobs_running_max
    facts = {
        "storageBytesMax": f"{cli.size(tenant.storage_bytes)} stored, at most "
        f"{cli.size(tenant.storage_bytes_max)}",
        "queueMax": f"{tenant.queued:,} waiting, at most {tenant.queue_max:,}",
        "ratePerSecond": "as many submits as come"
        if rate is None
        else f"at most {rate:g} submits a second",
        "jobsRunningMax": "as many jobs at once as endpoints let run"
        if running is None
        else f"at most {running:,} jobs at once",
        "outputsBytesMax": f"{cli.size(tenant.output_bytes)} of outputs, at most "
        f"{cli.size(tenant.outputs_bytes_max)}",
    }
    for field, text in facts.items():
        line = Text(f"  {text}")
        out.print(line.append("  (default)", style="dim") if field in tenant.defaults else line)
