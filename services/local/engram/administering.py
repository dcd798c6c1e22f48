"""`engram tenants`, `keys`, `members`, `plans`: who uses this installation, by which keys, within which limits.

They speak to the door with the installation's own key, which lies in the data directory.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from engram.terminal import AsJson, complete, guarded, output

tenants = typer.Typer(help="Create, suspend, resume and delete tenants.", no_args_is_help=True)
keys = typer.Typer(help="Make, rotate and revoke API keys.", no_args_is_help=True)
members = typer.Typer(help="Whose tokens count for a tenant, and for what.", no_args_is_help=True)
plans = typer.Typer(help="Limits that tenants have in common.", no_args_is_help=True)

SYSTEM = "_system"
"""Stands in a tenant's place for the installation."""
LOOK_SECONDS = 1.0

Name = Annotated[str, typer.Argument(help="The tenant's name.")]
PlanName = Annotated[str, typer.Argument(help="The plan's name.")]
KeyId = Annotated[str, typer.Argument(help="The key's id: the 12 characters after eng_live_.")]
OfTenant = Annotated[str, typer.Option("--tenant", help="Of which tenant; _system is the installation.")]
MemberId = Annotated[str, typer.Argument(help="The member's id, as the list shows it.")]
Scopes = Annotated[list[str] | None, typer.Option(help="A permission of the role; the others are not given.")]
Users = Annotated[list[str] | None, typer.Option(help="Only memories of this user_id; may be repeated.")]
Sessions = Annotated[list[str] | None, typer.Option(help="Only memories of this session_id.")]
MemberName = Annotated[str | None, typer.Option(help="What people call them.")]
Quota = Annotated[list[str] | None, typer.Option(help="metric=most, for example memories=1000; may be repeated.")]
Rate = Annotated[list[str] | None, typer.Option(help="class=per minute:burst, for example standard=60:10.")]
Share = Annotated[float | None, typer.Option(help="The most of all model calls under way, from 0 to 1.")]
Language = Annotated[str | None, typer.Option(help="Of its memories, for example german; set it before the first.")]
HalfLife = Annotated[float | None, typer.Option(help="Days after which a memory counts half as new.")]
Title = Annotated[str | None, typer.Option(help="What people call it.")]


# --- tenants ------------------------------------------------------------------------------------------------


@tenants.command("create")
def create_tenant(
    context: typer.Context,
    name: Name,
    *,
    plan: Annotated[str | None, typer.Option(help="By default: standard.")] = None,
    title: Title = None,
    quota: Quota = None,
    rate: Rate = None,
    model_share: Share = None,
    language: Language = None,
    half_life_days: HalfLife = None,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="Encrypt its text where it is stored.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a tenant."""
    limits = _limits(quota, rate, model_share)
    given = _given(plan=plan, title=title, overrides=limits, language=language, half_life_days=half_life_days)
    body = {"name": name, **given, **({"encrypted": True} if encrypted else {})}
    _show(as_json, _call(context, "POST", "/v1/tenants", body), "tenant")


@tenants.command("list")
def list_tenants(context: typer.Context, as_json: AsJson = False) -> None:
    """List tenants."""
    _show(as_json, _all(context, "/v1/tenants", "tenants"), "tenants")


@tenants.command("show")
def show_tenant(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show a tenant with the limits that count for it."""
    _show(as_json, _call(context, "GET", f"/v1/tenants/{_part(name)}"), "tenant")


@tenants.command("change")
def change_tenant(
    context: typer.Context,
    name: Name,
    *,
    plan: Annotated[str | None, typer.Option()] = None,
    title: Title = None,
    quota: Quota = None,
    rate: Rate = None,
    model_share: Share = None,
    language: Language = None,
    half_life_days: HalfLife = None,
    as_json: AsJson = False,
) -> None:
    """Give a tenant another plan, title, way to recall, or limits of its own, which are replaced as a whole."""
    limits = _limits(quota, rate, model_share)
    body = _given(plan=plan, title=title, overrides=limits, language=language, half_life_days=half_life_days)
    _show(as_json, _call(context, "PATCH", f"/v1/tenants/{_part(name)}", body), "tenant")


@tenants.command("suspend")
def suspend_tenant(
    context: typer.Context,
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Why; shown to who looks at the tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Refuse a tenant's requests, at every door within a second."""
    _show(as_json, _call(context, "POST", f"/v1/tenants/{_part(name)}/suspend", _given(reason=reason)), "tenant")


@tenants.command("resume")
def resume_tenant(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Serve a suspended tenant again."""
    _show(as_json, _call(context, "POST", f"/v1/tenants/{_part(name)}/resume"), "tenant")


@tenants.command("delete")
def delete_tenant(
    context: typer.Context,
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until nothing is left.")] = True,
    as_json: AsJson = False,
) -> None:
    """Erase a tenant and everything it owns, for good. It goes on by itself when this command is interrupted."""
    if not yes:
        typer.confirm(f"Erase tenant {name!r} and everything it owns, for good?", abort=True)

    async def body(door: Any) -> dict[str, Any]:
        while True:
            answer: dict[str, Any] = (await door.call("DELETE", f"/v1/tenants/{_part(name)}"))["data"]
            if answer["state"] == "done" or not wait:
                return answer
            await asyncio.sleep(LOOK_SECONDS)

    _show(as_json, complete(lambda: _with_door(context, SYSTEM, body)), "erasure")


# --- keys ---------------------------------------------------------------------------------------------------


@keys.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    *,
    tenant: OfTenant = "default",
    role: Annotated[str, typer.Option(help="reader, writer, operator or admin (of _system: also owner).")] = "writer",
    test: Annotated[bool, typer.Option("--test", help="Begin it with eng_test_.")] = False,
    scope: Scopes = None,
    user: Users = None,
    session: Sessions = None,
    expires: Annotated[str | None, typer.Option(help="A time, or how long from now (24h, 90d).")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and show it this once."""
    body = {"name": name, "role": role, "mode": "test" if test else "live"}
    body |= _given(scopes=scope or None, user_ids=user or None, session_ids=session or None, expires_at=_later(expires))
    _show(as_json, _call(context, "POST", "/v1/keys", body, tenant=tenant), "made")


@keys.command("list")
def list_keys(context: typer.Context, tenant: OfTenant = "default", as_json: AsJson = False) -> None:
    """List a tenant's keys, without the keys themselves."""
    _show(as_json, _all(context, "/v1/keys", "keys", tenant=tenant), "keys")


@keys.command("show")
def show_key(context: typer.Context, key: KeyId, tenant: OfTenant = "default", as_json: AsJson = False) -> None:
    """Show what is known of a key."""
    _show(as_json, _call(context, "GET", f"/v1/keys/{_part(key)}", tenant=tenant), "key")


@keys.command("rotate")
def rotate_key(
    context: typer.Context,
    key: KeyId,
    *,
    tenant: OfTenant = "default",
    overlap: Annotated[str, typer.Option(help="So long both count: 0s, 30m, 24h, 7d.")] = "24h",
    expires: Annotated[str | None, typer.Option(help="When the new one runs out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key's successor, and show it this once; the old one counts on for the overlap."""
    from engram.moments import seconds  # noqa: PLC0415 (beside its one use)

    body = {"overlap": guarded(lambda: seconds(overlap, "overlap")), **_given(expires_at=_later(expires))}
    _show(as_json, _call(context, "POST", f"/v1/keys/{_part(key)}/rotate", body, tenant=tenant), "made")


@keys.command("revoke")
def revoke_key(context: typer.Context, key: KeyId, tenant: OfTenant = "default", as_json: AsJson = False) -> None:
    """Refuse a key, at every door within a second."""
    _show(as_json, _call(context, "DELETE", f"/v1/keys/{_part(key)}", tenant=tenant), "key")


# --- members ------------------------------------------------------------------------------------------------


@members.command("add")
def add_member(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="What their tokens say in `sub`.")],
    *,
    tenant: OfTenant = "default",
    role: Annotated[str, typer.Option(help="reader, writer, operator or admin.")] = "reader",
    scope: Scopes = None,
    user: Users = None,
    session: Sessions = None,
    name: MemberName = None,
    as_json: AsJson = False,
) -> None:
    """Let the tokens of somebody count."""
    narrowed = _given(scopes=scope or None, user_ids=user or None, session_ids=session or None, name=name)
    body = {"subject": subject, "role": role, **narrowed}
    _show(as_json, _call(context, "POST", "/v1/members", body, tenant=tenant), "member")


@members.command("list")
def list_members(context: typer.Context, tenant: OfTenant = "default", as_json: AsJson = False) -> None:
    """List a tenant's members."""
    _show(as_json, _all(context, "/v1/members", "members", tenant=tenant), "members")


@members.command("change")
def change_member(
    context: typer.Context,
    member: MemberId,
    *,
    tenant: OfTenant = "default",
    role: Annotated[str | None, typer.Option(help="reader, writer, operator or admin.")] = None,
    scope: Scopes = None,
    user: Users = None,
    session: Sessions = None,
    name: MemberName = None,
    as_json: AsJson = False,
) -> None:
    """Change what a member may do, at every door within a second."""
    body = _given(role=role, scopes=scope or None, user_ids=user or None, session_ids=session or None, name=name)
    _show(as_json, _call(context, "PATCH", f"/v1/members/{_part(member)}", body, tenant=tenant), "member")


@members.command("remove")
def remove_member(
    context: typer.Context, member: MemberId, tenant: OfTenant = "default", as_json: AsJson = False
) -> None:
    """Let somebody's tokens count no more, at every door within a second."""
    _show(as_json, _call(context, "DELETE", f"/v1/members/{_part(member)}", tenant=tenant), "member")


# --- plans --------------------------------------------------------------------------------------------------


@plans.command("list")
def list_plans(context: typer.Context, as_json: AsJson = False) -> None:
    """List plans."""
    _show(as_json, _all(context, "/v1/plans", "plans"), "plans")


@plans.command("show")
def show_plan(context: typer.Context, name: PlanName, as_json: AsJson = False) -> None:
    """Show a plan."""
    _show(as_json, _call(context, "GET", f"/v1/plans/{_part(name)}"), "plan")


@plans.command("create")
def create_plan(
    context: typer.Context,
    name: PlanName,
    *,
    title: Title = None,
    quota: Quota = None,
    rate: Rate = None,
    model_share: Share = None,
    as_json: AsJson = False,
) -> None:
    """Create a plan; what is not named is not limited."""
    body = {"name": name, **_given(title=title), **(_limits(quota, rate, model_share) or {})}
    _show(as_json, _call(context, "POST", "/v1/plans", body), "plan")


@plans.command("change")
def change_plan(
    context: typer.Context,
    name: PlanName,
    *,
    title: Title = None,
    quota: Quota = None,
    rate: Rate = None,
    model_share: Share = None,
    as_json: AsJson = False,
) -> None:
    """Change a plan, for all its tenants; quotas, and rates, are replaced as a whole."""
    body = {**_given(title=title), **(_limits(quota, rate, model_share) or {})}
    _show(as_json, _call(context, "PATCH", f"/v1/plans/{_part(name)}", body), "plan")


@plans.command("delete")
def delete_plan(context: typer.Context, name: PlanName, as_json: AsJson = False) -> None:
    """Take away a plan that no tenant has."""
    _show(as_json, _call(context, "DELETE", f"/v1/plans/{_part(name)}"), "plan")


# --- how they speak to the door ------------------------------------------------------------------------------


def _call(context: typer.Context, method: str, path: str, body: Any = None, *, tenant: str = SYSTEM) -> dict[str, Any]:
    async def once(door: Any) -> dict[str, Any]:
        data: dict[str, Any] = (await door.call(method, path, body))["data"]
        return data

    return complete(lambda: _with_door(context, tenant, once))


def _all(context: typer.Context, path: str, kind: str, *, tenant: str = SYSTEM) -> dict[str, Any]:
    """Everything of a list, page by page."""

    async def whole(door: Any) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            answer = await door.call("GET", path, limit=1_000, cursor=cursor)
            found += answer["data"][kind]
            cursor = answer["meta"].get("next")
            if cursor is None:
                return {kind: found}

    return complete(lambda: _with_door(context, tenant, whole))


async def _with_door(context: typer.Context, tenant: str, use: Any) -> dict[str, Any]:
    from engram.door import Door  # noqa: PLC0415 (aiohttp takes longer to import than help to print)

    where = context.obj
    async with Door.find(url=where.url, key=where.key, data_dir=where.data_dir, tenant=tenant) as door:
        data: dict[str, Any] = await use(door)
        return data


def _show(as_json: bool, data: dict[str, Any], view: str) -> None:
    def show(_: Any) -> None:
        from engram import showing_control  # noqa: PLC0415 (rich is not needed for JSON)

        getattr(showing_control, view)(data)

    output(as_json, data, show)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _part(name: str) -> str:
    """A name as one part of a path."""
    from urllib.parse import quote  # noqa: PLC0415 (beside its one use)

    return quote(name, safe="")


def _later(text: str | None) -> str | None:
    from engram.moments import later  # noqa: PLC0415 (beside its one use)

    return None if text is None else guarded(lambda: later(text, "expires"))


def _limits(quota: list[str] | None, rate: list[str] | None, model_share: float | None) -> dict[str, Any] | None:
    """Limits as the door takes them; `None` where nothing is said of them."""
    said: dict[str, Any] = {}
    if quota:
        said["quotas"] = guarded(lambda: dict(map(_quota, quota)))
    if rate:
        said["rates"] = guarded(lambda: dict(map(_rate, rate)))
    return (said | _given(model_share=model_share)) or None


def _quota(text: str) -> tuple[str, int | None]:
    from engram_contracts.errors import Rejected  # noqa: PLC0415 (beside its one use)

    name, _, most = text.partition("=")
    if most == "none":
        return name, None
    if not most.isascii() or not most.isdigit():
        raise Rejected(f"{text!r} is no quota; write memories=1000, or memories=none", field="quota")
    return name, int(most)


def _rate(text: str) -> tuple[str, dict[str, float] | None]:
    from engram_contracts.errors import Rejected  # noqa: PLC0415 (beside its one use)

    name, _, said = text.partition("=")
    if said == "none":
        return name, None
    minute, _, burst = said.partition(":")
    try:
        return name, {"per_minute": float(minute), "burst": int(burst)}
    except ValueError:
        raise Rejected(f"{text!r} is no rate; write standard=60:10, or standard=none", field="rate") from None
