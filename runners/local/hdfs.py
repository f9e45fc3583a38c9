"""HDFS: a NameNode and one DataNode, used over WebHDFS."""

import getpass
import subprocess
from pathlib import Path
from typing import Any

import requests

from runners.local.errors import CannotStart
from runners.local.ports import LOOPBACK
from runners.local.program import JavaProgram, Program
from runners.local.service import Service
from runners.local.web import get_json

CORE_SITE = {
    "fs.defaultFS": "hdfs://{host}:{hdfs_rpc}",
    "hadoop.tmp.dir": "{folder}/tmp",
    "hadoop.http.staticuser.user": "{user}",
}
HDFS_SITE = {
    "dfs.replication": "1",
    "dfs.namenode.name.dir": "file://{folder}/namenode",
    "dfs.datanode.data.dir": "file://{folder}/datanode",
    "dfs.namenode.rpc-address": "{host}:{hdfs_rpc}",
    "dfs.namenode.http-address": "{host}:{hdfs}",
    "dfs.datanode.address": "{host}:{hdfs_datanode}",
    "dfs.datanode.http.address": "{host}:{hdfs_datanode_http}",
    "dfs.datanode.ipc.address": "{host}:{hdfs_datanode_ipc}",
    "dfs.datanode.hostname": "{host}",
    "dfs.namenode.datanode.registration.ip-hostname-check": "false",
    "dfs.permissions.enabled": "false",
    "dfs.namenode.safemode.extension": "0",
    "dfs.namenode.safemode.threshold-pct": "0",
}
LOG4J = """\
log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d %p %c{1}: %m%n
"""
JVM_OPTIONS = (
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "-Xmx192m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.net.preferIPv4Stack=true",
)


class HdfsCluster(Service):
    name = "hdfs"
    port_names = ("hdfs", "hdfs_rpc", "hdfs_datanode", "hdfs_datanode_http", "hdfs_datanode_ipc")

    def __init__(self, folder: Path | str, *, port: int | None = None) -> None:
        super().__init__(folder, {"hdfs": port})
        self.namenode, self.datanode = self.processes

    @property
    def namenode_http(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['hdfs']}"

    @property
    def address(self) -> str:
        return self.namenode_http

    @property
    def hdfs_flags(self) -> list[str]:
        """Beam's options for paths that begin with hdfs://"""
        return [
            f"--hdfs_host={LOOPBACK}",
            f"--hdfs_port={self.ports['hdfs']}",
            f"--hdfs_user={getpass.getuser()}",
        ]

    @property
    def flags(self) -> list[str]:
        return self.hdfs_flags

    def programs(self) -> list[Program]:
        return [
            self._program("namenode", "namenode.NameNode", ready=lambda: self._live_datanodes() is not None),
            self._program("datanode", "datanode.DataNode", ready=lambda: self._live_datanodes() == 1),
        ]

    def prepare(self) -> None:
        # The servers look for these folders of their web pages, empty or not, and end without them.
        for pages in ("hdfs", "datanode", "secondary", "static"):
            (self._configuration / "webapps" / pages).mkdir(parents=True, exist_ok=True)
        (self.folder / "datanode").mkdir(mode=0o700, exist_ok=True)
        known = {**self.ports, "host": LOOPBACK, "folder": self.folder, "user": getpass.getuser()}
        for file, properties in (("core-site.xml", CORE_SITE), ("hdfs-site.xml", HDFS_SITE)):
            lines = "\n".join(
                f"<property><name>{name}</name><value>{value.format_map(known)}</value></property>"
                for name, value in properties.items()
            )
            (self._configuration / file).write_text(f"<configuration>\n{lines}\n</configuration>\n")
        (self._configuration / "log4j.properties").write_text(LOG4J)
        if not (self.folder / "namenode" / "current" / "VERSION").exists():
            self._format_namenode()

    @property
    def _configuration(self) -> Path:
        return self.folder / "configuration"

    def _program(self, name: str, main: str, **more: Any) -> JavaProgram:
        return JavaProgram(
            name=name,
            jars="hdfs",
            main=f"org.apache.hadoop.hdfs.server.{main}",
            options=JVM_OPTIONS,
            configuration=self._configuration,
            **more,
        )

    def _format_namenode(self) -> None:
        tool = self._program(
            "format", "namenode.NameNode", arguments=["-format", "-nonInteractive"], ready=bool
        )
        answer = subprocess.run(tool.command(), capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise CannotStart(f"the NameNode could not be formatted:\n{answer.stdout}{answer.stderr}")

    def _live_datanodes(self) -> int | None:
        try:
            beans = get_json(f"{self.namenode_http}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState")[
                "beans"
            ]
        except requests.RequestException:
            return None
        return beans[0]["NumLiveDataNodes"] if beans else None
