"""What the plan says has to be made on the target before an instance comes. Several jobs may ask for the same.

Nothing of it is ever removed by herder: the next instance needs it too.
"""

from common.domain.errors import PreconditionFailed, PreflightRefused, ServerBusy, ServerRefused
from common.domain.fleet import Definition
from common.domain.plan import Creation, Thing
from workers.steps.context import Context


def create_missing(ctx: Context) -> None:
    """Make what is not there.

    Raises PreflightRefused if the target refuses, and ServerBusy while another job is making the same.
    """
    for each in ctx.move.creations:
        if not _is_there(ctx, each):
            ctx.confirm_fence()
            _create(ctx, each)
        elif each.thing is Thing.PROFILE and each.name == "default":
            _furnish(ctx, each)


def _furnish(ctx: Context, creation: Creation) -> None:
    """A project that was made for the instance has an empty default profile, which its server has made."""
    made = {each.name for each in ctx.move.creations if each.thing is Thing.PROJECT}
    found = ctx.target.profile(creation.name, project=ctx.move.target_project)
    if ctx.move.target_project not in made or found.config or found.devices:
        return
    ctx.confirm_fence()
    try:
        ctx.target.replace_profile(
            found,
            description=creation.description,
            config=creation.config,
            devices=creation.devices,
            project=ctx.move.target_project,
        )
    except PreconditionFailed as changed:
        message = f"{ctx.move.target}: another job fills profile {creation.name} of {ctx.move.target_project}"
        raise ServerBusy(message) from changed


def _is_there(ctx: Context, creation: Creation) -> bool:
    """Whether it is there and finished; a server lists what it has only begun to make."""
    project = ctx.move.target_project
    if creation.thing is Thing.PROFILE:
        return any(profile.name == creation.name for profile in ctx.target.profiles(project=project))
    if creation.thing is Thing.PROJECT:
        found = ctx.target.project_definitions().get(creation.name)
    elif creation.thing is Thing.NETWORK:
        found = ctx.target.network_definitions(project=project).get(creation.name)
    else:
        found = ctx.target.pool_definitions().get(creation.name)
    if found is not None and not found.is_made:
        raise ServerBusy(f"{ctx.move.target}: {creation.thing} {creation.name} is being made")
    return found is not None


def _create(ctx: Context, creation: Creation) -> None:
    definition = Definition(driver=creation.driver, description=creation.description, config=creation.config)
    try:
        match creation.thing:
            case Thing.PROJECT:
                ctx.target.create_project(creation.name, definition)
            case Thing.PROFILE:
                ctx.target.create_profile(
                    creation.name,
                    description=creation.description,
                    config=creation.config,
                    devices=creation.devices,
                    project=ctx.move.target_project,
                )
            case Thing.NETWORK:
                ctx.target.create_network(creation.name, definition, project=ctx.move.target_project)
            case Thing.POOL:
                ctx.target.create_pool(creation.name, definition)
    except ServerRefused as refused:
        if _is_there(ctx, creation):  # another job was faster
            return
        raise PreflightRefused(
            f"{ctx.move.instance}: {creation.thing} {creation.name} cannot be made: {refused.message}",
            hint=f"make it on {ctx.move.target} yourself, or name another one with --map; then `herder retry`",
        ) from refused
