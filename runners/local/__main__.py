"""Start, show and end the local services: python -m runners.local up|status|down."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock

from runners.folders import state_folder
from runners.local.errors import CannotStart
from runners.local.flink import FlinkCluster
from runners.local.hdfs import HdfsCluster
from runners.local.kafka import KafkaBroker
from runners.local.prometheus import Prometheus
from runners.local.registry import SchemaRegistry
from runners.local.service import Service

SERVICES: dict[str, Callable[[argparse.Namespace], Service]] = {
    "kafka": lambda asked: KafkaBroker(asked.data / "kafka", port=asked.kafka_port),
    "flink": lambda asked: FlinkCluster(
        asked.data / "flink",
        task_managers=asked.task_managers,
        worker_pool=asked.worker_pool,
        port=asked.flink_port,
    ),
    "registry": lambda asked: SchemaRegistry(asked.data / "registry", port=asked.registry_port),
    "hdfs": lambda asked: HdfsCluster(asked.data / "hdfs", port=asked.hdfs_port),
    "prometheus": lambda asked: Prometheus(asked.data / "prometheus", port=asked.prometheus_port),
}
USUAL = ("kafka", "flink")


def main(arguments: list[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    asked.data = asked.data.expanduser().absolute()
    # As Ctrl-C does: a half-started `up` ends what it began.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        asked.data.mkdir(parents=True, exist_ok=True)
        if asked.action == "status":
            return status(asked)
        with FileLock(asked.data / "lock"):  # one `up` or `down` at a time
            return up(asked) if asked.action == "up" else down(asked)
    except CannotStart as reason:
        print(reason, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def up(asked: argparse.Namespace) -> int:
    with ExitStack() as started:
        for name in _named(asked) or USUAL:
            service = SERVICES[name](asked)
            if not service.ready():
                if not service.records():
                    started.callback(service.stop)
                service.start()
            print(f"{name:<9} {service.address}  {' '.join(service.flags)}", flush=True)
        started.pop_all()  # only now do they stay when this command ends
    return 0


def status(asked: argparse.Namespace) -> int:
    services = [service for service in _services(asked) if service.records()]
    if not services:
        print(f"nothing is up in {asked.data}")
    for service in services:
        health = "ready" if service.ready() else "NOT READY"
        print(f"{service.name:<9} {health:<9}  {service.address}  {' '.join(service.flags)}")
        for record in service.records():
            process = record.process()
            memory = f"pid {process.pid}, {process.memory_info().rss >> 20} MB" if process else "DEAD"
            print(f"  {record.name}: {memory}, log {service.folder / record.name}.log")
    return 0 if all(service.ready() for service in services) else 1


def down(asked: argparse.Namespace) -> int:
    for service in _services(asked):
        if service.records():
            service.stop()
            print(f"{service.name:<9} ended; its data and logs stay in {service.folder}")
    return 0


def _named(asked: argparse.Namespace) -> list[str]:
    return [name for name in SERVICES if getattr(asked, name)]


def _services(asked: argparse.Namespace) -> list[Service]:
    return [SERVICES[name](asked) for name in _named(asked) or SERVICES]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runners.local", description=__doc__)
    parser.add_argument("action", choices=("up", "status", "down"))
    for name in SERVICES:
        parser.add_argument(f"--{name}", action="store_true", help=f"the service {name}")
        parser.add_argument(
            f"--{name}_port", type=int, metavar="PORT", help=f"where {name} listens (default: a free port)"
        )
    parser.add_argument(
        "--task_managers",
        type=int,
        metavar="N",
        help="how many Flink TaskManagers, each with two slots (default: 1, or as many as run)",
    )
    parser.add_argument(
        "--worker_pool",
        action="store_true",
        default=None,
        help="run the Python workers beside Flink: then a job outlives the program that submitted it",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=state_folder() / "services",
        help="the folder of data and logs (default: %(default)s)",
    )
    parser.epilog = (
        "An action is about the services that are named; with none named, up starts Kafka and Flink, "
        "and status and down are about all. What is up stays up, with its ports and data."
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
