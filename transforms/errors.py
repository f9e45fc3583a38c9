"""The error that a user can put right, and those of file systems that become one."""


class UserError(Exception):
    """Something that only the user can put right; the message says what, in one line."""


def file_errors(path: str) -> tuple[type[Exception], ...]:
    """What the file system of a path raises where it is gone or refused.

    Beam's own error is an OSError; those of two file systems come from extras.
    """
    if path.lower().startswith("hdfs://"):
        from hdfs import HdfsError

        return OSError, HdfsError
    if path.lower().startswith("s3://"):
        from apache_beam.io.aws.clients.s3.messages import S3ClientError

        return OSError, S3ClientError
    return (OSError,)
