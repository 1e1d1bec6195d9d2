"""`prefect-tikmatrix simulate`: the simulator on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from tikmatrix_tasks.simulator.faults import FAULT_SYNTAX, KINDS, Fault, parse_fault
from tikmatrix_tasks.simulator.options import (
    ACCOUNTS_AT_MOST,
    SUPPORTED_SCRIPTS,
    Dialect,
    Options,
    Plan,
    RowsKey,
)
from tikmatrix_tasks.simulator.request_log import Request
from tikmatrix_tasks.simulator.server import Simulator

DEFAULT_PORT = 50809  # TikMatrix's own; docs, "Local API Overview"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulate` to a parser; `run` takes what it parsed."""
    usual, dialect = Options(), Dialect()

    add = parser.add_argument
    add(
        "--port",
        type=_whole(0, 65535),
        default=DEFAULT_PORT,
        metavar="PORT",
        help="port on 127.0.0.1, 0 for a free one (default: %(default)s)",
    )
    add(
        "--phones",
        type=_whole(1, 10_000),
        default=usual.phones,
        metavar="N",
        help="how many phones, called phone-1, phone-2, ... (default: %(default)s)",
    )
    add("--serials", nargs="+", metavar="SERIAL", help="the phones' serials, in place of --phones")
    add(
        "--accounts",
        type=_whole(1, ACCOUNTS_AT_MOST),
        default=1,
        metavar="N",
        help="accounts on each phone: user-1a, user-1b, ... (default: %(default)s)",
    )
    add(
        "--plan",
        choices=get_args(Plan),
        default=usual.plan,
        help="the licence; Starter has no API (default: %(default)s)",
    )
    add(
        "--device-limit",
        type=_whole(1),
        metavar="N",
        help="phones that run at once (default: the simulator's own number for the plan)",
    )
    add(
        "--speed",
        type=_number(0.001),
        default=1.0,
        metavar="N",
        help="simulated seconds per real second (default: 1)",
    )
    add(
        "--seed",
        type=_whole(0),
        default=0,
        metavar="N",
        help="the same seed and calls give the same outcome (default: %(default)s)",
    )
    add(
        "--state-file",
        type=Path,
        metavar="PATH",
        help="keep the jobs there, and go on with those that are there",
    )
    add(
        "--history",
        type=_whole(1),
        metavar="N",
        help="begin with this many old finished jobs, unless --state-file brings jobs",
    )
    add(
        "--verbose",
        action="store_true",
        help="print a line per request: method, path, code; never a body",
    )

    add = parser.add_argument_group("how runs go").add_argument
    add(
        "--script",
        action="append",
        metavar="NAME",
        help=f"support this script too, besides {', '.join(SUPPORTED_SCRIPTS)}; repeatable",
    )
    add(
        "--duration",
        action="append",
        type=_duration,
        metavar="SCRIPT=SECONDS",
        help="exact simulated seconds of a run of this script; repeatable",
    )
    add(
        "--pickup",
        nargs=2,
        type=_number(0.0),
        default=usual.pickup_seconds,
        metavar=("MIN", "MAX"),
        help="simulated seconds until an idle phone takes up a job (default: 0 10)",
    )
    add(
        "--fail-rate",
        type=_number(0.0, 1.0),
        default=0.0,
        metavar="SHARE",
        help="share of runs that fail, 0 to 1 (default: 0)",
    )
    add(
        "--no-auto-retry",
        action="store_true",
        help="TikMatrix does not run failed jobs again by itself",
    )
    add(
        "--auto-retry-delay",
        nargs=2,
        type=_number(0.0),
        default=usual.auto_retry_delay_seconds,
        metavar=("MIN", "MAX"),
        help="simulated seconds from a failure to its Auto Retry (default: 5 60)",
    )
    add(
        "--max-retry-count",
        type=_whole(0),
        default=usual.max_retry_count,
        metavar="N",
        help="retries a job may have (default: %(default)s)",
    )
    add(
        "--fault",
        action="append",
        type=_fault,
        metavar="FAULT",
        help=f"something that goes wrong, as {FAULT_SYNTAX}, e.g. 'POST /task=lose_reply' or "
        "'GET /task/stats=slow(2.5)*3'; ENDPOINT may be *; KIND: refuse, "
        f"{', '.join(KINDS)}; seconds are real; repeatable",
    )

    add = parser.add_argument_group("what TikMatrix's docs leave open").add_argument
    add(
        "--past-start-time",
        choices=("now", "tomorrow"),
        default=usual.past_start_time,
        help="what a start_time already past today means (default: %(default)s)",
    )
    add(
        "--after-stop",
        type=int,
        choices=(2, 3),
        default=usual.after_stop,
        help="status of a job that was stopped (default: %(default)s)",
    )
    add(
        "--auto-retry-stopped",
        action="store_true",
        help="Auto Retry also revives stopped jobs that report failed",
    )
    add(
        "--stop-pending",
        choices=("refuse", "stop"),
        default=usual.stop_pending,
        help="stopping a job that does not run yet (default: %(default)s)",
    )
    add(
        "--unknown-serial",
        choices=("refuse", "create"),
        default=usual.unknown_serial,
        help="jobs for a phone that is not there (default: %(default)s)",
    )
    add(
        "--duplicates",
        choices=("keep", "merge"),
        default=usual.duplicates,
        help="a phone, account or target named twice (default: %(default)s)",
    )
    add(
        "--batch-delete-missing",
        choices=("ignore", "refuse"),
        default=usual.batch_delete_missing,
        help="ids in a batch delete that are not there (default: %(default)s)",
    )
    add(
        "--large-page",
        choices=("cap", "refuse"),
        default=usual.large_page,
        help="a page_size above 100 (default: %(default)s)",
    )
    add(
        "--running-after-restart",
        choices=("continue", "pending"),
        default=usual.running_after_restart,
        help="jobs that ran when the simulator was closed (default: %(default)s)",
    )
    add("--no-accounts", action="store_true", help="an older TikMatrix, without GET /accounts")
    add(
        "--rows-key",
        choices=(*get_args(RowsKey), "none"),
        default=dialect.rows_key,
        help="key of a page's rows; none: a bare list (default: %(default)s)",
    )
    add("--string-status", action="store_true", help="rows give their status as text")
    add("--no-total", action="store_true", help="pages of jobs do not say how many there are")
    add(
        "--http-status",
        choices=("always_200", "by_code"),
        default=dialect.http_status,
        help="HTTP status of refusals: 200, or 400, 403, 404, 500 (default: %(default)s)",
    )
    add("--oldest-first", action="store_true", help="pages begin with the oldest job")
    add("--minimal-rows", action="store_true", help="rows hold id and status only")
    add(
        "--script-args",
        choices=("text", "object"),
        default=dialect.script_args,
        help="a row's script_args: JSON text or an object (default: %(default)s)",
    )
    add(
        "--target-in-args",
        choices=("single", "list", "as_sent"),
        default=dialect.target_in_args,
        help="how script_args tell a job's target (default: %(default)s)",
    )
    add(
        "--empty-data",
        choices=("object", "null"),
        default=dialect.empty_data,
        help="data of an answer that has none (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Returns 0, or 2 with a line on stderr if it could not begin."""
    try:
        simulator = Simulator(
            _options(arguments),
            _dialect(arguments),
            port=arguments.port,
            state_file=arguments.state_file,
            on_request=_print_request if arguments.verbose else None,
        )
        if arguments.history and simulator.engine.stats()["total"] == 0:
            simulator.engine.add_history(arguments.history)
        for fault in arguments.fault or ():
            simulator.faults.add(fault)
        simulator.start()
    except (ValueError, OSError) as err:
        why = err.strerror if isinstance(err, OSError) and err.strerror else err
        print(f"simulate: {why}", file=sys.stderr)
        return 2
    options = simulator.options
    print(f"TikMatrix simulator at {simulator.base_url}")
    print(
        f"{len(options.serials)} phones ({', '.join(options.serials[:3])}"
        f"{', ...' if len(options.serials) > 3 else ''}), plan {options.plan},"
        f" {options.phones_at_once} at once, {options.speed:g} simulated seconds per second"
    )
    print("Ctrl-C ends it", flush=True)
    simulator.serve_forever()
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        phones=tuple(arguments.serials) if arguments.serials else arguments.phones,
        accounts_per_phone=arguments.accounts,
        plan=arguments.plan,
        device_limit=arguments.device_limit,
        speed=arguments.speed,
        seed=arguments.seed,
        scripts=(*SUPPORTED_SCRIPTS, *(arguments.script or ())),
        durations=dict(arguments.duration or ()),
        pickup_seconds=_shorter_first(arguments.pickup, "--pickup"),
        fail_rate=arguments.fail_rate,
        auto_retry=not arguments.no_auto_retry,
        auto_retry_delay_seconds=_shorter_first(arguments.auto_retry_delay, "--auto-retry-delay"),
        auto_retry_stopped=arguments.auto_retry_stopped,
        max_retry_count=arguments.max_retry_count,
        past_start_time=arguments.past_start_time,
        after_stop=arguments.after_stop,
        stop_pending=arguments.stop_pending,
        unknown_serial=arguments.unknown_serial,
        duplicates=arguments.duplicates,
        batch_delete_missing=arguments.batch_delete_missing,
        large_page=arguments.large_page,
        running_after_restart=arguments.running_after_restart,
        accounts_endpoint=not arguments.no_accounts,
    )


def _dialect(arguments: argparse.Namespace) -> Dialect:
    return Dialect(
        rows_key=None if arguments.rows_key == "none" else arguments.rows_key,
        string_status=arguments.string_status,
        with_total=not arguments.no_total,
        http_status=arguments.http_status,
        newest_first=not arguments.oldest_first,
        row_fields="minimal" if arguments.minimal_rows else "seen",
        script_args=arguments.script_args,
        target_in_args=arguments.target_in_args,
        empty_data=arguments.empty_data,
    )


def _print_request(request: Request) -> None:
    code = "no code" if request.code is None else f"code {request.code}"
    fault = f" (fault: {request.fault})" if request.fault else ""
    print(f"{request.method} {request.path} {code}{fault}", flush=True)


def _shorter_first(seconds: Any, option: str) -> tuple[float, float]:
    shortest, longest = seconds
    if shortest > longest:
        raise ValueError(f"{option}: {shortest:g} is more than {longest:g}")
    return shortest, longest


# Types of options: argparse puts the option's name before what they complain about.


def _whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            return int(_within(int(text), lowest, highest))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number{_range(lowest, highest)}"
            ) from None

    return whole


def _number(lowest: float, highest: float | None = None) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            return _within(float(text), lowest, highest)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number{_range(lowest, highest)}"
            ) from None

    return number


def _within(value: float, lowest: float, highest: float | None) -> float:
    if not lowest <= value <= (sys.maxsize if highest is None else highest):
        raise ValueError(value)
    return value


def _range(lowest: float, highest: float | None) -> str:
    return f" of {lowest:g} or more" if highest is None else f" from {lowest:g} to {highest:g}"


def _duration(text: str) -> tuple[str, float]:
    script, _, seconds = text.partition("=")
    if not script:
        raise argparse.ArgumentTypeError(f"{text!r} is not SCRIPT=SECONDS")
    return script, _number(0.001)(seconds)


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from None
