"""The command `prefect-tikmatrix`: demo, up, down, simulate, check, limits and the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tikmatrix_tasks.automations import FILE, run_automations
from tikmatrix_tasks.check import run_check
from tikmatrix_tasks.demo import run_demo
from tikmatrix_tasks.evening import run_down, run_up
from tikmatrix_tasks.history_command import run_history
from tikmatrix_tasks.limits import run_limits
from tikmatrix_tasks.simulator import command as simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0 when all is well."""
    parser = argparse.ArgumentParser(
        prog="prefect-tikmatrix",
        description="Prefect tasks and flows for TikMatrix.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the main job on simulated phones")
    demo.add_argument(
        "--ui", action="store_true", help="keep the Prefect server up and open its UI"
    )

    commands.add_parser(
        "up", help="a simulated TikMatrix, Prefect with its UI, a worker and all deployments"
    )
    commands.add_parser("down", help="end what `up` started")

    simulator = commands.add_parser(
        "simulate", help="serve a stand-in TikMatrix, for trying things without phones"
    )
    simulate.add_arguments(simulator)

    check = commands.add_parser("check", help="is everything there that a run needs?")
    where = check.add_mutually_exclusive_group()
    where.add_argument("--base-url", help="address of TikMatrix's Local API")
    where.add_argument("--block", help="name of a stored TikMatrix block")

    limits = commands.add_parser(
        "limits", help="create the concurrency limits that exclusive_phones takes"
    )
    limits.add_argument(
        "--phones", nargs="+", metavar="SERIAL", help="the phones (default: those of its accounts)"
    )
    limits.add_argument("--base-url", help="address of TikMatrix's Local API")

    history = commands.add_parser("history", help="what became of the jobs of the last days")
    history.add_argument(
        "--days", type=int, default=7, help="how many, today included (default: %(default)s)"
    )
    history.add_argument("--phone", nargs="+", metavar="SERIAL", help="only these phones")
    history.add_argument("--script", help="only this script, such as post or account_warmup")
    whose = history.add_mutually_exclusive_group()
    whose.add_argument("--flow", help="only jobs of this flow, such as warm-up")
    whose.add_argument("--deployment", help="only jobs of the deployment of this name")
    history.add_argument(
        "--time-zone", help="where days begin, such as Europe/Berlin (default: this machine's)"
    )
    form = history.add_mutually_exclusive_group()
    form.add_argument("--by-day", action="store_true", help="split phones and scripts by day")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="for machines")
    form.add_argument("--json", dest="form", action="store_const", const="json", help="the same")
    automations = commands.add_parser(
        "automations", help="create or update what watches over phones and runs"
    )
    automations.add_argument("--file", type=Path, default=FILE, help=f"default: {FILE.as_posix()}")
    automations.add_argument(
        "--notify", metavar="TYPE/NAME", help="a notification block, such as slack-webhook/office"
    )

    given = parser.parse_args(arguments)
    if given.command == "demo":
        return run_demo(ui=given.ui)
    if given.command == "up":
        return run_up()
    if given.command == "down":
        return run_down()
    if given.command == "simulate":
        return simulate.run(given)
    if given.command == "limits":
        return run_limits(serials=given.phones, base_url=given.base_url)
    if given.command == "history":
        return run_history(
            days=given.days,
            serials=given.phone,
            script_name=given.script,
            flow_name=given.flow,
            deployment_name=given.deployment,
            time_zone=given.time_zone,
            by_day=given.by_day,
            form=given.form,
        )
    if given.command == "automations":
        return run_automations(file=given.file, notify=given.notify)
    return run_check(base_url=given.base_url, block_name=given.block)


if __name__ == "__main__":
    sys.exit(main())
