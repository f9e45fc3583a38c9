"""Real local services for tests, each started once a session, when a test first asks for it."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from runners.local import CannotStart, FlinkCluster, HdfsCluster, KafkaBroker, SchemaRegistry
from runners.local.jars import find_maven
from runners.local.java import find_java


def require_maven() -> None:
    """Skip where the services cannot be had, and say what is missing."""
    try:
        find_java()
        find_maven()
    except CannotStart as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    require_maven()
    with KafkaBroker(tmp_path_factory.mktemp("services") / "kafka") as broker:
        yield broker


@pytest.fixture(scope="session")
def schema_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SchemaRegistry]:
    require_maven()
    with SchemaRegistry(tmp_path_factory.mktemp("services") / "registry") as registry:
        yield registry


@pytest.fixture(scope="session")
def flink_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """Two TaskManagers: a job of parallelism 2 goes on when one is killed; and a pool of Python workers."""
    require_maven()
    folder = tmp_path_factory.mktemp("services") / "flink"
    with FlinkCluster(folder, task_managers=2, worker_pool=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HdfsCluster]:
    require_maven()
    with HdfsCluster(tmp_path_factory.mktemp("services") / "hdfs") as cluster:
        yield cluster


@pytest.fixture
def new_topic(kafka: KafkaBroker, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Creates a topic of its own for this test: new_topic(partitions=5)."""

    def create(partitions: int = 1) -> str:
        test = request.node.name.partition("[")[0][:100]
        name = f"{test}-{uuid.uuid4().hex[:8]}"
        kafka.create_topic(name, partitions)
        return name

    return create


@pytest.fixture
def topic(new_topic: Callable[..., str]) -> str:
    """A topic of one partition, empty and of this test alone."""
    return new_topic()
