"""The Java libraries of the local services: which they are, fetched once and shared by all."""

import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

from filelock import FileLock

from runners.folders import cache_folder
from runners.local.errors import CannotStart
from runners.local.java import find_java

_LOGGER = logging.getLogger(__name__)

# group:artifact:version[:type:classifier]; with a classifier the file is whole and brings no dependencies.
COORDINATES = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.1.0", "org.slf4j:slf4j-simple:1.7.36"),
    "flink": (
        # Older than the Python SDK on purpose: the newest one whose dependencies all resolve, and it runs it.
        "org.apache.beam:beam-runners-flink-1.19:2.62.0",
        "org.apache.flink:flink-runtime-web:1.19.0",
        "org.slf4j:slf4j-simple:1.7.36",
    ),
    "registry": ("io.apicurio:apicurio-registry-app:2.6.13.Final:tar.gz:all",),
    "hdfs": (
        "org.apache.hadoop:hadoop-common:3.4.2",
        "org.apache.hadoop:hadoop-hdfs:3.4.2",
        "org.apache.hadoop:hadoop-hdfs-client:3.4.2",
    ),
}
FLINK_VERSION = "1.19"
COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

JOB_SERVER_JAR = "beam-flink-job-server.jar"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
# What Flink and Beam reach into by reflection, closed since Java 17.
OPENED_PACKAGES = (
    *(f"java.{part}" for part in ("lang", "net", "io", "nio", "text", "time", "util", "util.concurrent")),
    "sun.nio.ch",
)


def fetch_jars(service: str) -> Path:
    """The folder with the jars of a service, from the cache or else by Maven."""
    digest = hashlib.sha256("\n".join((*COORDINATES[service], COPY_DEPENDENCIES)).encode()).hexdigest()[:12]
    jars = cache_folder() / "jars" / f"{service}-{digest}"
    if jars.is_dir():
        return jars
    jars.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(jars.with_suffix(".lock")):
        if jars.is_dir():
            return jars
        _LOGGER.info("fetching the jars of %s with Maven, once, into %s", service, jars)
        with tempfile.TemporaryDirectory(dir=jars.parent, prefix=f".{service}-") as unfinished:
            fetched = Path(unfinished, "jars")
            _copy_dependencies(service, Path(unfinished), fetched)
            for archive in fetched.glob("*.tar.gz"):
                with tarfile.open(archive) as tar:
                    tar.extractall(fetched, filter="data")
                archive.unlink()
            if service == "flink":
                _write_job_server_jar(fetched)
            fetched.rename(jars)
    return jars


def job_server_jar() -> Path:
    """Beam's Flink job server as one file for --flink_job_server_jar."""
    return fetch_jars("flink") / JOB_SERVER_JAR


def find_maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise CannotStart(
            "Maven is needed to fetch the jars of the local services, and there is no mvn on PATH: "
            "install it (Debian: apt install maven; macOS: brew install maven)"
        )
    return maven


def _copy_dependencies(service: str, folder: Path, into: Path) -> None:
    pom = folder / "pom.xml"
    pom.write_text(_pom(COORDINATES[service]))
    command = [find_maven(), "--batch-mode", "--quiet", "--file", str(pom), COPY_DEPENDENCIES]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    environment = dict(os.environ)
    java_home = find_java().resolve().parent.parent
    if (java_home / "bin" / "java").exists():  # not so for the stand-ins of version managers
        environment["JAVA_HOME"] = str(java_home)  # it may be one that only Python's environment has
    answer = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=environment
    )
    if answer.returncode != 0:
        errors = [line for line in answer.stdout.splitlines() if "ERROR" in line] or ["mvn said nothing"]
        raise CannotStart(f"Maven could not fetch the jars of {service}: {errors[0]}")


def _pom(coordinates: tuple[str, ...]) -> str:
    dependencies = "".join(_dependency(*coordinate.split(":")) for coordinate in coordinates)
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>local</groupId><artifactId>services</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _dependency(group: str, artifact: str, version: str, kind: str = "jar", classifier: str = "") -> str:
    parts = {"groupId": group, "artifactId": artifact, "version": version, "type": kind}
    whole = ""
    if classifier:
        parts["classifier"] = classifier
        everything = "<exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion>"
        whole = f"<exclusions>{everything}</exclusions>"
    inside = "".join(f"<{tag}>{escape(text)}</{tag}>" for tag, text in parts.items())
    return f"<dependency>{inside}{whole}</dependency>"


def _write_job_server_jar(jars: Path) -> None:
    attributes = {
        "Manifest-Version": "1.0",
        "Main-Class": JOB_SERVER,
        "Class-Path": " ".join(sorted(jar.name for jar in jars.glob("*.jar"))),
        "Add-Opens": " ".join(f"java.base/{package}" for package in OPENED_PACKAGES),
    }
    manifest = "".join(_manifest_lines(f"{name}: {text}") for name, text in attributes.items())
    with zipfile.ZipFile(jars / JOB_SERVER_JAR, "w", zipfile.ZIP_DEFLATED) as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest + "\r\n")


def _manifest_lines(line: str) -> str:
    # A line of a manifest holds 72 bytes with its end; a leading space continues the line before.
    pieces = [line[:70], *(f" {line[at : at + 69]}" for at in range(70, len(line), 69))]
    return "".join(f"{piece}\r\n" for piece in pieces)
