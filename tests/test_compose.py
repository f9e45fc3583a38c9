"""docker-compose.yml, as far as it can be checked without an engine: its form, and that it is what is tested.

Not checked here: that the images exist and hold what their documentation says, and that containers come up.
"""

from __future__ import annotations

import ast
import itertools
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam
import compose_spec
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipelines.arguments import parse_arguments
from pipelines.replay.topics import TOPICS
from runners.local import FlinkCluster
from runners.local.flink import CONFIGURATION
from runners.local.jars import COORDINATES, FLINK_VERSION
from runners.local.kafka import CLUSTER_ID, PROPERTIES
from runners.local.ports import free_ports
from runners.local.program import JavaProgram
from runners.local.waiting import wait_until
from schemas.traffic import TRAFFIC
from tests.monitoring import DASHBOARD, MONITORING
from tests.services import require_maven
from tests.stream_jobs import job, messages, reading, rows, send, wait_for

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"topics", "flink-state"}
IMAGE = re.compile(r"[a-z0-9./_-]+:v?\d[\w.-]*")


def version(artifact: str) -> str:
    """Of the jars that the local services run."""
    (found,) = (
        coordinate.split(":")[2]
        for coordinates in COORDINATES.values()
        for coordinate in coordinates
        if coordinate.split(":")[1] == artifact
    )
    return found


def settings(text: str) -> dict[str, str]:
    """Of lines such as `name: value` or `name=value`."""
    found = (re.match(r"([\w.-]+)(?:=|: )(.*)", line) for line in text.splitlines())
    return {each[1]: each[2] for each in found if each}


def without_addresses(configured: dict[str, str]) -> dict[str, str]:
    """Those whose value has no place to be filled in: hosts, ports and folders are others in a container."""
    return {name: value for name, value in configured.items() if "{" not in value}


def test_the_file_follows_the_compose_specification():
    compose = compose_spec.PyOptions(apply_merge=True).from_yaml(FILE.read_text())
    compose.validate()
    assert set(compose.service_names()) == set(SERVICES)


def test_docker_compose_takes_the_file():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker's compose plugin is missing")
    command = [docker, "compose", "--file", str(FILE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_pinned_image_and_says_when_it_is_healthy(name):
    service = SERVICES[name]
    assert IMAGE.fullmatch(service["image"])
    assert name in ONCE or service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs_to_be_ready(name):
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert how["condition"] == expected


def test_what_is_served_is_served_to_this_machine_alone():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert {name: ports[name] for name in ("kafka", "registry", "jobmanager", "kafka-ui")} == {
        "kafka": ["127.0.0.1:9092:9092"],
        "registry": ["127.0.0.1:8082:8080"],
        "jobmanager": ["127.0.0.1:8081:8081"],
        "kafka-ui": ["127.0.0.1:8080:8080"],
    }
    published = [port for each in ports.values() for port in each]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_volumes_are_declared_and_used():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    named = {volume for volume in used if not volume.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    assert all((ROOT / volume).exists() for volume in used - named)


def test_programs_in_health_checks_are_python_that_compiles():
    for service in SERVICES.values():
        test = service.get("healthcheck", {}).get("test", [])
        if "python" in test:
            ast.parse(test[-1])


def test_versions_are_those_of_the_local_services():
    kafka, beam = version("kafka_2.13"), version(f"beam-runners-flink-{FLINK_VERSION}")
    flink = version("flink-runtime-web")
    registry = version("apicurio-registry-app")
    expected = {
        "kafka": f"apache/kafka:{kafka}",
        "topics": f"apache/kafka:{kafka}",
        "registry": f"apicurio/apicurio-registry-kafkasql:{registry}",
        "jobserver": f"apache/beam_flink{FLINK_VERSION}_job_server:{beam}",
        **dict.fromkeys(("flink-state", "jobmanager", "taskmanager"), f"flink:{flink}-java17"),
    }
    assert {name: SERVICES[name]["image"] for name in expected} == expected


def test_the_project_s_image_is_of_this_project_on_this_beam():
    project = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())
    assert project
    for name in ("workers", "job"):
        assert SERVICES[name]["image"] == f"sensor-feeds:{project[1]}"
        dockerfile = ROOT / SERVICES[name]["build"]["dockerfile"]
    lines = dockerfile.read_text().splitlines()
    (base,) = (line.split()[1] for line in lines if line.startswith("FROM"))
    assert base == f"apache/beam_python3.11_sdk:{apache_beam.__version__}"
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    assert {f"!{source}" for source in copied} < set((ROOT / ".dockerignore").read_text().splitlines())
    assert all((ROOT / source).exists() for source in copied)


def test_kafka_is_configured_as_the_local_one():
    environment = {name: str(value) for name, value in SERVICES["kafka"]["environment"].items()}
    for name, value in without_addresses(settings(PROPERTIES)).items():
        if "listener" not in name:
            assert environment[f"KAFKA_{name.upper().replace('.', '_')}"] == value
    assert environment["CLUSTER_ID"] == CLUSTER_ID
    listeners = dict(each.split("://") for each in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert sorted(listeners.values()) == ["127.0.0.1:9092", "kafka:29092"]


def test_topics_are_those_of_the_replay():
    (script,) = SERVICES["topics"]["command"]
    created = dict(re.findall(r"create --topic (\S+) --partitions (\d+)", script))
    job = parse_arguments(TRAFFIC, SERVICES["job"]["command"])
    assert set(created) == {*job.topics, job.aggregates_topic, job.dead_letter_topic}
    assert set(created.values()) == {str(TOPICS["traffic"]["traffic-raw"])}
    assert f"{job.aggregates_topic} --partitions 5 --config cleanup.policy=compact" in script


def test_flink_is_configured_as_the_local_one():
    for name in ("jobmanager", "taskmanager"):
        configured = settings(SERVICES[name]["environment"]["FLINK_PROPERTIES"])
        expected = without_addresses(CONFIGURATION)
        assert {name: configured.get(name) for name in expected} == expected
        folder = SERVICES[name]["volumes"][0].split(":")[1]
        for place in ("state.checkpoints.dir", "state.savepoints.dir"):
            assert configured[place].startswith(f"file://{folder}/")


def test_the_job_s_options_are_options_and_name_the_services():
    job = parse_arguments(TRAFFIC, SERVICES["job"]["command"])
    assert job.streaming
    options = PipelineOptions(list(job.beam_flags)).get_all_options()
    addresses = {*job.kafka["bootstrap.servers"].split(",")}
    addresses |= {options["job_endpoint"], options["artifact_endpoint"], options["flink_master"]}
    assert {address.partition(":")[0] for address in addresses} <= set(SERVICES)
    assert options["environment_config"].endswith(SERVICES["workers"]["command"][0].partition("=")[2])
    assert SERVICES["workers"]["network_mode"] == "service:taskmanager"
    assert job.output == SERVICES["job"]["volumes"][0].split(":")[1]
    assert SERVICES["job"]["volumes"] == SERVICES["workers"]["volumes"]


@pytest.fixture
def broker_of_the_container(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The local Kafka with the container's settings; (its address for this machine, that for containers)."""
    require_maven()
    ports = [str(port) for port in itertools.islice(free_ports(), 3)]
    environment = {name: str(value) for name, value in SERVICES["kafka"]["environment"].items()}
    for old, port in zip(("9092", "29092", "9093"), ports, strict=True):
        environment = {name: re.sub(rf"\b{old}\b", port, value) for name, value in environment.items()}
    environment["KAFKA_LOG_DIRS"] = str(tmp_path / "data")
    places = re.compile(r"//(kafka|0\.0\.0\.0)\b")
    lines = [
        f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={places.sub('//127.0.0.1', value)}\n"
        for name, value in environment.items()
        if name not in ("CLUSTER_ID", "KAFKA_HEAP_OPTS")
    ]
    (tmp_path / "server.properties").write_text("".join(lines))
    file = str(tmp_path / "server.properties")
    identity = ("--cluster-id", environment["CLUSTER_ID"], "--config", file)
    subprocess.run(kafka_command("kafka.tools.StorageTool", "format", *identity), check=True)
    addresses = (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    with (tmp_path / "broker.log").open("w") as log:
        broker = subprocess.Popen(kafka_command("kafka.Kafka", file), stdout=log, stderr=subprocess.STDOUT)
        try:
            assert wait_until(lambda: all(map(brokers, addresses)), within=60)
            yield addresses
        finally:
            broker.kill()
            broker.wait()


def kafka_command(main: str, *arguments: str) -> list[str]:
    return JavaProgram(name="", jars="kafka", main=main, arguments=arguments, ready=bool).command()


def brokers(address: str) -> list[str]:
    """Where those who find Kafka at that address are told to go on."""
    try:
        found = AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=2).brokers
    except KafkaException:
        return []
    return [f"{broker.host}:{broker.port}" for broker in found.values()]


def test_the_container_s_settings_start_a_broker(broker_of_the_container):
    """Each listener sends clients back to itself; a topic that is only named does not come to be."""
    here, among_containers = broker_of_the_container
    assert brokers(here) == [here]
    assert brokers(among_containers) == [among_containers]
    admin = AdminClient({"bootstrap.servers": here})
    assert admin.list_topics("no-such-topic", timeout=10).topics["no-such-topic"].error
    assert not admin.list_topics(timeout=10).topics


def test_prometheus_scrapes_the_job_and_grafana_shows_the_dashboard_of_that_prometheus():
    (scraped,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    job = parse_arguments(TRAFFIC, SERVICES["job"]["command"])
    assert scraped["static_configs"] == [{"targets": [f"job:{job.metrics_port}"]}]
    assert job.metrics_host == "0.0.0.0"
    inside = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "sensor-feeds.yml").read_text())["providers"]
    assert provider["options"]["path"] == inside[f"./{DASHBOARD.parent.relative_to(ROOT)}"]
    assert source["url"] == "http://prometheus:9090"
    assert set(re.findall(r'"uid": "([^"]+)"', DASHBOARD.read_text())) == {source["uid"], "sensor-feeds"}


def test_the_job_s_command_runs_on_the_local_services_and_stops_with_a_savepoint(kafka, new_topic, tmp_path):
    """Its own command, with the addresses of local services: a job server, a cluster, a pool of workers."""
    topic, events, letters = new_topic(1), new_topic(1), new_topic(1)
    with FlinkCluster(tmp_path / "flink", worker_pool=True) as cluster:
        local = {
            "jobserver:8099": cluster.job_endpoint,
            "jobserver:8098": cluster.artifact_endpoint,
            "jobmanager:8081": cluster.rest_url.removeprefix("http://"),
            "localhost:50000": f"127.0.0.1:{cluster.ports['workers']}",
            "kafka:29092": kafka.bootstrap_servers,
            "traffic-raw": topic,
            "traffic-events": events,
            "traffic-raw.dlq": letters,
            "/output": str(tmp_path / "out"),
            "8000": str(next(free_ports())),
            "0.0.0.0": "127.0.0.1",
        }
        flags = [flag.partition("=") for flag in SERVICES["job"]["command"]]
        command = [f"{name}={local.get(value, value)}" for name, _, value in flags]
        with job(kafka, tmp_path / "out", *command) as launcher:
            readings = [(0, reading("a", second)) for second in (0, 400, 401)]
            send(kafka, topic, [*readings, (0, b"{")])
            wait_for(lambda: rows(tmp_path / "out", "processed/aggregates"), "the first window is out", 150)
            wait_for(lambda: messages(kafka, letters), "the dead letter is sent")
            assert [key for key, _ in messages(kafka, events)][-1] == b"a|2012-03-01T00:00:00Z"
            launcher.terminate()
            assert launcher.wait(180) == 128 + signal.SIGTERM
    assert "--savepoint_path=file:" in (tmp_path / "out.log").read_text()
