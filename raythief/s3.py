"""S3 and what speaks like it: how it is reached, and what its errors mean.

    s3://bucket/prefix
    s3://bucket/prefix?endpoint_override=http://minio:9000
    s3://bucket/prefix?region=eu-west-1

Credentials come from where the AWS tools take them (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, the
role of the machine), never from the address, which is shown and kept. The endpoint is the
address's, or that of ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``. Workers open the storage
themselves, so variables must be set on every node; what stands in the address gets there by itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.fs

from raythief.errors import UserError

_CONNECT_S = 5.0
_ATTEMPTS = 10
"""Of a request, with pauses that double up to some seconds: a store that is asked too often says so
for a while, and a run should not end of it."""
_FIRST_ATTEMPTS = 2
"""Of the first request: nobody waits a minute to be told of an address with a slip in it."""
_KNOWN = ("endpoint_override", "region", "scheme")
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def connect(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The filesystem of an address, and the path in it, after a look whether it is there.

    Raises:
        UserError: the address holds what is not known, nobody answers, the bucket does not exist
            or lies elsewhere, or we may not see it.
    """
    place, _, asked = uri.removeprefix("s3://").partition("?")
    shown, bucket = f"s3://{place}", place.partition("/")[0]
    query = dict(parse_qsl(asked, keep_blank_values=True))
    unknown = sorted(query.keys() - set(_KNOWN))
    reason = ""
    if unknown:
        reason = f"`{unknown[0]}` is none of {', '.join(_KNOWN)}"
    elif not bucket:
        reason = "it has no bucket"
    elif ":" in bucket:
        reason = f"`{bucket}` is no bucket; an endpoint is named by `?endpoint_override=`"
    if reason:
        raise UserError(f"storage: {shown} cannot be opened: {reason}")
    path = place.rstrip("/")
    options = _options(query)
    try:
        if "region" not in options:
            options["region"] = _region(bucket, "endpoint_override" in options)
        hasty = pa.fs.AwsStandardS3RetryStrategy(max_attempts=_FIRST_ATTEMPTS)
        _look(pa.fs.S3FileSystem(**options, retry_strategy=hasty), path)
    except FileNotFoundError:
        raise UserError(
            f"storage: {shown}: there is no bucket `{bucket}` at {_where(options)}; make it, "
            "or mend the address"
        ) from None
    except pa.ArrowInvalid as error:  # of a scheme, say
        raise UserError(f"storage: {shown} cannot be opened: {error}") from None
    except OSError as error:
        raise UserError(f"storage: {shown}: {explain(error, options)}") from None
    patient = pa.fs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS)
    # Opened late, a file of some megabytes takes one request instead of three.
    return pa.fs.S3FileSystem(**options, retry_strategy=patient, allow_delayed_open=True), path


def explain(error: OSError, options: dict[str, str] | None = None) -> str:
    """What pyarrow's error of a request means, and what to do; holds no key."""
    text = " ".join(str(error).split())
    where = _where(options or {})
    if "NETWORK_CONNECTION" in text:
        return (
            f"{where} does not answer; check the network, and AWS_ENDPOINT_URL or "
            "`?endpoint_override=` where it is not AWS itself"
        )
    if elsewhere := re.search(r"located in '([\w-]+)'", text):
        return f"the bucket is in the region {elsewhere[1]}; add `?region={elsewhere[1]}`"
    if "HTTP status 301" in text:
        return "the bucket is in another region; name it as `?region=...`"
    if re.search(r"ACCESS_DENIED|HTTP status 40[13]|CLIENT_TOKEN_ID|ACCESS_KEY|SIGNATURE", text):
        files = (Path("~/.aws/credentials"), Path("~/.aws/config"))
        given = any(name in os.environ for name in _CREDENTIALS)
        if given or any(file.expanduser().exists() for file in files):
            return f"{where} refuses the credentials; check them, and what they allow"
        return (
            f"{where} refuses us, and no credentials are set; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, on every node"
        )
    reason = re.sub(r"^.*?(AWS Error )", r"\1", text).partition(" (Request ID")[0]
    return f"{where} answers: {reason}"


def _options(query: dict[str, str]) -> dict[str, str]:
    """What the address, or else the environment, says of the endpoint."""
    options = dict(query)
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = options.pop("endpoint_override", None) or next(filter(None, named), None)
    if endpoint is not None:
        scheme, found, rest = endpoint.rpartition("://")
        if found:
            options["scheme"] = scheme
        options["endpoint_override"] = rest.rstrip("/")
    return options


def _region(bucket: str, other_than_aws: bool) -> str:
    """The region of a bucket; what is not AWS itself takes any."""
    if other_than_aws:
        named = (os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
        return next(filter(None, named), "us-east-1")
    found: str = pa.fs.resolve_s3_region(bucket)
    return found


def _look(fs: pa.fs.FileSystem, path: str) -> None:
    """Raise ``OSError`` unless the folder can be listed, ``FileNotFoundError`` without a bucket."""
    bucket = path.partition("/")[0]
    try:
        if fs.get_file_info(pa.fs.FileSelector(path, allow_not_found=True)):
            return
    except OSError as error:
        if "HTTP status 301" in str(error):
            fs.get_file_info(bucket)  # whose error names the region
        raise
    try:
        there = fs.get_file_info(bucket).type != pa.fs.FileType.NotFound
    except OSError:  # those who may see a prefix alone may not ask for the bucket
        return
    if not there:
        raise FileNotFoundError(bucket)


def _where(options: dict[str, str]) -> str:
    return options.get("endpoint_override") or "S3"
