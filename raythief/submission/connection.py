"""A client of a cluster's dashboard, or the sentence that says why there is none."""

from __future__ import annotations

import os
import socket
import urllib.parse

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from raythief.errors import UserError, first_line

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where an address is looked for if none is given, in Ray's own order."""
CONNECT_TIMEOUT_S = 10.0
_SIGN_IN = (
    "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=..., or keep the token in a file that "
    "RAY_AUTH_TOKEN_PATH names"
)
_SCHEMES = ("http://", "https://")
_PORTS = {"http": 80, "https": 443}


def connect(address: str | None) -> JobSubmissionClient:
    """Connect to the dashboard of a Ray cluster.

    Args:
        address: Its address, as ``http://HEAD:8265``; None takes the variables above.

    Raises:
        UserError: there is no address, nobody answers there, it is no Ray dashboard, it asks for
            another token, or it runs another release of Ray.
    """
    url = _url(address)
    host, port = _host(url)
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"--address {url}: nobody answers ({reason}); give the address of the cluster's "
            "dashboard, which listens on port 8265 of the head, or forward that port"
        ) from None
    os.environ[VARIABLES[0]] = url  # Ray prefers it to the argument
    try:
        client = JobSubmissionClient(url)
    except AuthenticationError as error:
        raise UserError(_about_token(url, str(error))) from None
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = first_line(error).rstrip(".")
        raise UserError(f"--address {url}: is no dashboard of a Ray cluster ({reason})") from None
    _check_release(url, client)
    return client


def _url(address: str | None) -> str:
    """The address that was given, or that of the environment."""
    if address is None:
        found = (os.environ.get(name, "") for name in VARIABLES)
        address = next((url for url in found if url.startswith(_SCHEMES)), None)
    if address is None:
        raise UserError(
            "--address is missing: give the address of the cluster's dashboard, as "
            "http://HEAD:8265, here or in RAY_API_SERVER_ADDRESS"
        )
    if not address.startswith(_SCHEMES):
        raise UserError(
            f"--address {address}: give the address of the cluster's dashboard, as http://HEAD:8265"
        )
    return address.rstrip("/")


def _host(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:  # of brackets that do not close, or a port that is no number
        host, port = None, 0
    if not host:
        raise UserError(f"--address {url}: write it as http://HEAD:8265")
    return host, port


def _about_token(url: str, error: str) -> str:
    """The sentence about a token that is missing or wrong; never the token itself."""
    if error.startswith("Authentication failed"):  # HTTP 403
        return (
            f"--address {url}: the cluster does not accept this token; take the cluster's own "
            f"(`ray get-auth-token` on its head) and {_SIGN_IN}"
        )
    return f"--address {url}: the cluster asks for a token; {_SIGN_IN}"


def _check_release(url: str, client: JobSubmissionClient) -> None:
    there, here = str(client._server_ray_version), str(ray.__version__)
    if there.split(".")[:2] != here.split(".")[:2]:
        raise UserError(
            f"--address {url}: the cluster runs Ray {there} and this machine Ray {here}; "
            f"install the same release on both (`pip install 'ray=={here}'`)"
        )
