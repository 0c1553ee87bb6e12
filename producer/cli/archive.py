"""``herder export`` and ``herder import``: instances as backup files in a directory or an S3 bucket, and back."""

from dataclasses import replace
from typing import Annotated

import typer

from common.archive import place
from common.config import load_settings
from common.domain.archive import Manifest, chosen
from common.domain.plan import Compression, Limits, Method, Overrides, Plan, Policy, Request, Selection
from common.lxd.connect import connect
from common.lxd.remotes import Remotes, split_name
from common.store.codec import to_plain
from producer.archiving import check_format, plan_export, plan_import, selected
from producer.cli import exits, flow, options, render
from producer.cli.exits import reports_errors
from producer.inventory import backup_needs, take_inventory
from producer.session import load_remotes

Archive = Annotated[
    str,
    typer.Argument(metavar="DIRECTORY|s3://BUCKET/PREFIX", help="As the hosts with workers see it."),
]


@reports_errors
def export(
    instances: options.Instances,
    archive: Archive,
    everything: options.All = False,
    matching: options.Filter = "",
    all_projects: options.AllProjects = False,
    optimized: Annotated[
        bool,
        typer.Option("--optimized", help="In the pool's own format, which only a pool of the same driver takes back."),
    ] = False,
    instance_only: Annotated[bool, typer.Option("--instance-only", help="Without its snapshots.")] = False,
    compression: Annotated[
        Compression, typer.Option("--compression", help="How the server compresses the file.")
    ] = Compression.NONE,
    project: options.Project = None,
    transfers: options.PerServer = Limits.per_source,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Write instances as backup files into a directory or an S3 bucket. The sources go on as they are."""
    remotes, settings, where = load_remotes(), load_settings(), place.address(archive)
    select, told = options.selected(
        instances, remotes, everything=everything, matching=matching, project=project, all_projects=all_projects
    )
    request = Request(
        name=f"export {told} to {where}",
        select=select,
        archive=where,
        policy=Policy(method=Method.EXPORT, optimized=optimized, compression=compression),
        limits=Limits(per_source=transfers, per_target=transfers),
        overrides=Overrides(instance_only=instance_only),
    )
    check_format(request.policy)
    if not settings.redis_url:
        place.open_archive(where).check_writable()  # the workers run here
    fleet = take_inventory(request, remotes, settings)
    wanted = selected(request, fleet)
    room, needs = backup_needs(wanted, select.source, remotes, settings)
    plan = plan_export(request, wanted, fleet, room, needs, plan_id=flow.new_plan_id())
    flow.carry_out(plan, yes=yes, as_json=as_json, skip_refused=skip_refused)


@reports_errors
def import_(
    archive: Archive,
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET:[NAME]", help="The same name if left out.", show_default=False),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INSTANCE|FILE]...",
            help="Of an instance the newest export; all instances of the project if left out.",
            show_default=False,
        ),
    ] = None,
    storage: options.Storage = "",
    project: Annotated[str, typer.Option("--project", help="Project that they were exported from.")] = "default",
    all_projects: Annotated[bool, typer.Option("--all-projects", help="Those of every project.")] = False,
    target_project: options.TargetProject = "",
    transfers: options.PerServer = Limits.per_target,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Make instances of exports; without a target, list what an archive holds. They are stopped."""
    where = place.address(archive)
    manifests = place.open_archive(where).manifests()
    if target is None:
        if as_json:
            exits.print_json([to_plain(manifest) for manifest in manifests])
        else:
            render.console.print(render.exports(manifests, where))
        return
    remotes = load_remotes()
    remote, rename = split_name(target if ":" in target else f"{target}:")
    request = Request(
        name=f"import {where} to {remote}",
        select=Selection(source=where, project=project, instances=tuple(names or ()), all_projects=all_projects),
        targets=(remotes.get(remote).name,),
        rename=rename,
        target_project=target_project,
        archive=where,
        policy=Policy(method=Method.IMPORT),
        limits=Limits(per_source=transfers, per_target=transfers),
        overrides=Overrides(storage=storage),
    )
    wanted = chosen(manifests, names or (), project=project, all_projects=all_projects, archive=where)
    plan = planned_import(request, wanted, remotes)
    flow.carry_out(plan, yes=yes, as_json=as_json, skip_refused=skip_refused)


def planned_import(request: Request, wanted: tuple[Manifest, ...], remotes: Remotes) -> Plan:
    """The plan to make instances of these exports. Raises InputError, UnknownRemote and ServerUnreachable."""
    settings, (target,) = load_settings(), request.targets
    look = replace(request, select=Selection(source=target, all_projects=True), targets=())
    fleet = take_inventory(look, remotes, settings)
    client = connect(remotes.get(target), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout)
    return plan_import(request, wanted, fleet, client.room_for_backups(), plan_id=flow.new_plan_id())
