"""A schema registry (Apicurio) that speaks Confluent's API and refuses incompatible schemas; kept on disk."""

from pathlib import Path

from runners.local.ports import LOOPBACK
from runners.local.program import JavaProgram, Program
from runners.local.service import Service
from runners.local.web import answers


class SchemaRegistry(Service):
    name = "registry"
    port_names = ("registry",)

    def __init__(self, folder: Path | str, *, port: int | None = None) -> None:
        super().__init__(folder, {"registry": port})

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['registry']}/apis/ccompat/v7"

    @property
    def address(self) -> str:
        return self.url

    @property
    def flags(self) -> list[str]:
        return [f"--schema_registry={self.url}"]

    def programs(self) -> list[Program]:
        database = self.folder / "data" / "registry"
        return [
            JavaProgram(
                name="registry",
                jars="registry",
                main="io.quarkus.runner.GeneratedMain",
                options=[
                    "-Xmx256m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-Dregistry.rules.global.compatibility=BACKWARD",
                ],
                environment={
                    "QUARKUS_HTTP_HOST": LOOPBACK,
                    "QUARKUS_HTTP_PORT": str(self.ports["registry"]),
                    # By default schemas are in memory: after a stop and a start there would be none. And H2
                    # writes half a second later: what it had answered would be gone after a kill.
                    "REGISTRY_DATASOURCE_URL": f"jdbc:h2:file:{database};WRITE_DELAY=0",
                },
                ready=lambda: answers(f"{self.url}/subjects"),
            )
        ]
