"""The files under cluster/, as far as they can be checked without a cloud.

Ray's launcher files go through Ray's own schema and preparation, AWS's also through Ray's bootstrap
on a simulated AWS account; Kubernetes' manifests through schemas (resources/kubernetes/README.md);
scripts and the Dockerfile through their linters; the Slurm script runs, on commands that stand in
for Slurm's and Ray's.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import textwrap
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import moto
import pytest
import ray
import typer.main
import yaml
from ray.autoscaler._private import util as launcher
from ray.serve.schema import ServeDeploySchema

import hub_server
import raythief
from raythief import cli, config, serving
from raythief.errors import UserError
from raythief.serving.replica import Victim
from raythief.serving.web import digest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RESOURCES = ROOT / "tests" / "resources"
TOOLS = Path(sysconfig.get_path("scripts"))
IN_IMAGE = Path("/home/ray/raythief")
"""Where the repository lies in the image."""
LAUNCHED = ("aws", "gcp", "onprem")
ASSEMBLIES = ("cluster", "job", "service")
SCRIPTS = sorted([*CLUSTER.rglob("*.sh"), *CLUSTER.rglob("*.sbatch"), ROOT / ".ci" / "run"])
WITH_HEADER = sorted(
    path
    for path in CLUSTER.rglob("*")
    if path.name in {"Dockerfile", "kustomization.yaml", "aws-setup.yaml", "raythief.sbatch"}
    or path.stem in LAUNCHED
    or path.suffix == ".sh"
)

Tree = dict[str, Any]


def read(path: Path) -> Tree:
    tree = yaml.safe_load(path.read_text())
    assert isinstance(tree, dict)
    return tree


def header(path: Path) -> str:
    """The comment that a file begins with."""
    lines = path.read_text().removeprefix("#!/usr/bin/env bash\n").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


# --- what all of them have in common ----------------------------------------------------------


@pytest.mark.parametrize("path", WITH_HEADER, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_each_says_for_whom_how_to_start_what_it_costs_and_how_to_stop(path: Path) -> None:
    said = header(path)
    for word in ("For whom", "Start:|Build:", "Cost:", "Stop:"):
        assert re.search(rf"^({word})", said, re.MULTILINE), word
    if "USD" in said:
        assert re.search(r"approximate", said)
        assert re.search(r"\b20\d\d\b", said), "prices without their date"


def test_versions_agree_everywhere() -> None:
    of_ray, of_python = set(), set()
    for path in CLUSTER.rglob("*"):
        if not path.is_file():
            continue
        text = path.read_text()
        of_ray |= set(
            re.findall(r"(?:rayproject/ray:|ray==|rayVersion: |RAY_VERSION=)(\d[\d.]*)", text)
        )
        of_python |= set(re.findall(r"rayproject/ray:\S*-py(\d+)", text))
        of_python |= {found.replace(".", "") for found in re.findall(r"python(3\.\d+)", text)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [wanted] = {
        found
        for line in [
            *project["project"]["dependencies"],
            *project["project"]["optional-dependencies"]["serve"],
        ]
        for found in re.findall(r"ray\[.*\]~=(.*)", line)
    }
    assert of_ray == {wanted}
    assert ray.__version__.rpartition(".")[0] == wanted.rpartition(".")[0]
    floor = project["project"]["requires-python"].removeprefix(">=")
    assert of_python == {floor.replace(".", "")}
    assert project["tool"]["mypy"]["python_version"] == floor


def test_the_image_is_tagged_with_our_version() -> None:
    tags = set()
    for path in CLUSTER.rglob("*"):
        if path.is_file():
            tags |= set(re.findall(r"(?:/raythief:|newTag: )([\w.]+)", path.read_text()))
    assert tags == {raythief.__version__}


# --- ray up -----------------------------------------------------------------------------------


def prepared(tree: Tree) -> Tree:
    """What `ray up` makes of a file before it asks the cloud, checked by Ray."""
    found = launcher.prepare_config(copy.deepcopy(tree))
    launcher.validate_config(found)
    return found


@pytest.fixture(params=LAUNCHED)
def launched(request: pytest.FixtureRequest) -> Tree:
    return read(CLUSTER / f"{request.param}.yaml")


def test_ray_takes_each_file_and_nothing_that_it_does_not_know(launched: Tree) -> None:
    assert prepared(launched)["cluster_name"] == "raythief"
    with pytest.raises(jsonschema.ValidationError, match="ssh_usr"):
        prepared({**launched, "auth": {"ssh_usr": "ubuntu"}})


def test_no_dashboard_and_no_cluster_is_open(launched: Tree) -> None:
    [start] = [line for line in launched["head_start_ray_commands"] if " --head" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--env RAY_AUTH_MODE=token" in launched["docker"]["run_options"]
    assert launched["file_mounts"]["/home/ray/.ray"] == "~/.ray"  # where Ray keeps its token


def test_what_is_copied_to_the_machines_is_there(launched: Tree) -> None:
    ours = {
        Path(there).relative_to(IN_IMAGE): here
        for there, here in launched["file_mounts"].items()
        if Path(there).is_relative_to(IN_IMAGE)
    }
    for there, here in ours.items():
        assert (ROOT / here).exists(), here
        assert str(there) == here
    # What pip needs to install us: what pyproject.toml itself refers to.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], "raythief"}
    assert set(ours.values()) == needed


def test_the_three_say_the_same_where_they_mean_the_same() -> None:
    aws, gcp, onprem = (read(CLUSTER / f"{name}.yaml") for name in LAUNCHED)
    for field in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert aws[field] == gcp[field] == onprem[field]
    assert aws["file_mounts"] == gcp["file_mounts"] == onprem["file_mounts"]
    assert aws["docker"]["image"] == gcp["docker"]["image"] == onprem["docker"]["image"]
    base = re.search(r"^FROM (\S+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    assert base[1].replace("${RAY_VERSION}", wanted_ray()) == aws["docker"]["image"]


def wanted_ray() -> str:
    found = re.search(r"^ARG RAY_VERSION=(\S+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_head_stays_and_gpus_come_and_go_with_work(name: str) -> None:
    tree = prepared(read(CLUSTER / f"{name}.yaml"))
    types = tree["available_node_types"]
    head = types.pop(tree["head_node_type"])
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    assert not spot(head["node_config"])
    assert tree["provider"]["use_internal_ips"]
    assert tree["auth"]["ssh_proxy_command"]
    for kind in types.values():
        assert kind["resources"]["GPU"] >= 1
        assert kind["min_workers"] == 0 < kind["max_workers"]
        assert spot(kind["node_config"])
    assert tree["max_workers"] == sum(kind["max_workers"] for kind in types.values())
    # The paper's table asks for 8 GPUs at once, and for as many labelling actors.
    resources = config.load(ROOT / "jobs" / "table2.yaml").resources
    gpus = sum(kind["resources"]["GPU"] * kind["max_workers"] for kind in types.values())
    assert gpus >= max(resources.inference.workers, resources.training.workers)


def spot(machine: Tree) -> bool:
    return (
        machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or machine.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )


def test_google_s_machines_are_what_its_api_takes() -> None:
    schema = json.loads((RESOURCES / "gcp" / "compute-instance.json").read_text())
    machine = jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/Instance"})
    tree = read(CLUSTER / "gcp.yaml")
    for kind in tree["available_node_types"].values():
        machine.validate(kind["node_config"])
        for interface in kind["node_config"]["networkInterfaces"]:
            assert "accessConfigs" not in interface, "a public address"
    with pytest.raises(jsonschema.ValidationError, match="preemptable"):
        machine.validate({"scheduling": {"preemptable": True}})


def test_google_s_two_files_agree() -> None:
    tree, script = read(CLUSTER / "gcp.yaml"), (CLUSTER / "gcp-setup.sh").read_text()
    region = tree["provider"]["region"]
    assert f"region={region}\n" in script
    assert tree["provider"]["availability_zone"].startswith(f"{region}-")
    assert f"--zone {tree['provider']['availability_zone']}" in tree["auth"]["ssh_proxy_command"]
    machine = tree["available_node_types"]["gpu"]["node_config"]
    subnet = machine["networkInterfaces"][0]["subnetwork"]
    assert subnet == f"regions/{region}/subnetworks/raythief"
    assert "networks subnets create raythief " in script
    [account] = machine["serviceAccounts"]
    assert account["email"] == "raythief@PROJECT.iam.gserviceaccount.com"
    assert "service-accounts create raythief\n" in script


# --- ray up, on a simulated AWS ---------------------------------------------------------------


def test_ray_starts_private_machines_in_the_network_of_the_setup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray puts a key for SSH
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    tree = prepared(read(CLUSTER / "aws.yaml"))
    region = tree["provider"]["region"]
    with moto.mock_aws():
        ec2 = boto3.resource("ec2", region)
        image = next(iter(ec2.images.filter(Owners=["amazon"]))).id
        clouds = boto3.client("cloudformation", region)
        clouds.create_stack(
            StackName="raythief",
            TemplateBody=(CLUSTER / "aws-setup.yaml").read_text(),
            Parameters=[{"ParameterKey": "Image", "ParameterValue": image}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        [stack] = clouds.describe_stacks()["Stacks"]
        [bucket] = boto3.client("s3", region).list_buckets()["Buckets"]
        assert stack["Outputs"][0]["OutputValue"] == f"s3://{bucket['Name']}/raythief"

        aws._get_subnets_or_die.cache_clear()
        tree = aws.bootstrap_aws(tree)
        provider = AWSNodeProvider(tree["provider"], tree["cluster_name"])
        roles = {}
        for name, kind in tree["available_node_types"].items():
            tags = {"ray-node-type": "worker", "ray-user-node-type": name}
            [created] = provider.create_node(kind["node_config"], tags, 1).values()
            machine = ec2.Instance(created.id)
            assert machine.image_id == image
            assert machine.instance_type == kind["node_config"]["InstanceType"]
            assert machine.public_ip_address is None
            assert not machine.subnet.map_public_ip_on_launch
            assert machine.subnet.availability_zone in tree["provider"]["availability_zone"]
            assert (machine.instance_lifecycle == "spot") == (name != "head")
            roles[name] = machine.iam_instance_profile["Arn"].rpartition("/")[2]
            [group] = machine.security_groups
            for rule in ec2.SecurityGroup(group["GroupId"]).ip_permissions:
                assert not rule["IpRanges"]
                assert not rule["Ipv6Ranges"]
                assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
        assert roles.pop("head") == "raythief-head"
        assert set(roles.values()) == {"raythief-worker"}
        # Machines are started by who may: the head.
        iam = boto3.client("iam")
        assert iam.list_role_policies(RoleName="raythief-head")["PolicyNames"]
        assert not iam.list_role_policies(RoleName="raythief-worker")["PolicyNames"]


def test_cloudformation_gets_no_aliases_which_it_refuses() -> None:
    found = yaml.scan((CLUSTER / "aws-setup.yaml").read_text())
    assert not [token for token in found if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]


# --- Kubernetes -------------------------------------------------------------------------------


@functools.cache
def assembled(name: str) -> list[Tree]:
    """What `kubectl kustomize` makes of a folder, for as much of kustomize as the folders use."""
    folder = CLUSTER / "kuberay" / name
    tree = read(folder / "kustomization.yaml")
    known = {"apiVersion", "kind", "namespace", "labels", "images", "resources", "replacements"}
    assert set(tree) <= known | {"patches"}
    found: list[Tree] = []
    for resource in tree["resources"]:
        path = (folder / resource).resolve()
        if path.is_dir():
            found += copy.deepcopy(assembled(path.name))
        else:
            found += copy.deepcopy(list(yaml.safe_load_all(path.read_text())))
    for document in found:
        metadata = document["metadata"]
        if "namespace" in tree and document["kind"] != "Namespace":
            metadata["namespace"] = tree["namespace"]
        for label in tree.get("labels", []):
            metadata["labels"] = {**metadata.get("labels", {}), **label["pairs"]}
        for container in containers(document):
            for image in tree.get("images", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for replacement in tree.get("replacements", []):
        [source] = [one for one in found if one["kind"] == replacement["source"]["kind"]]
        [target] = replacement["targets"]
        [path] = target["fieldPaths"]
        for document in found:
            if document["kind"] == target["select"]["kind"]:
                document["spec"][path.removeprefix("spec.")] = source["spec"]
    for patch in tree.get("patches", []):
        change = yaml.safe_load(patch["patch"])
        assert change["metadata"]["annotations"] == {"config.kubernetes.io/local-config": "true"}
        found = [one for one in found if one["kind"] != patch["target"]["kind"]]
    for document in found:
        if not document["metadata"].get("annotations", True):
            del document["metadata"]["annotations"]  # as kustomize drops what is empty
    return found


def containers(tree: Any) -> Iterator[Tree]:
    """Every container in a manifest."""
    for some in found_under(tree, "containers"):
        yield from some


def found_under(tree: Any, name: str) -> Iterator[Any]:
    """Every value of a field, wherever it stands."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from found_under(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from found_under(value, name)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("name", ASSEMBLIES)
def test_kubectl_assembles_the_same(name: str) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", str(CLUSTER / "kuberay" / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {one["kind"]: one for one in yaml.safe_load_all(made.stdout)}
    ours = {one["kind"]: one for one in assembled(name)}
    assert len(ours) == len(assembled(name)), "two of one kind"
    assert ours == theirs


@functools.cache
def schema_of(kind: str) -> jsonschema.Draft202012Validator:
    kubernetes = json.loads((RESOURCES / "kubernetes" / "kubernetes-1.34.json").read_text())
    kuberay = read(RESOURCES / "kubernetes" / "kuberay.yaml")
    types = {**kubernetes["$defs"], **kuberay["$defs"]}
    [name] = [name for name in types if name.rpartition(".")[2] == kind]
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": types})


@pytest.fixture(params=ASSEMBLIES)
def manifests(request: pytest.FixtureRequest) -> list[Tree]:
    return copy.deepcopy(assembled(request.param))


def test_manifests_are_what_kubernetes_and_kuberay_take(manifests: list[Tree]) -> None:
    for manifest in manifests:
        schema_of(manifest["kind"]).validate(manifest)
    assert {manifest["kind"] for manifest in manifests} & {"RayCluster", "RayJob", "RayService"}


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("rayVersio", "2.60.0", "rayVersio"),
        ("authOptions.mode", "on", "'on' is not one of"),
        ("headGroupSpec.rayStartParams.num-gpus", 0, "0 is not of type 'string'"),
        ("headGroupSpec.template.spec.restartPolice", "Never", "restartPolice"),
        ("headGroupSpec.template.spec.containers", [{"image": "a"}], "'name' is a required"),
    ],
)
def test_a_wrong_manifest_would_be_found(path: str, value: Any, fault: str) -> None:
    [cluster] = [one for one in copy.deepcopy(assembled("cluster")) if one["kind"] == "RayCluster"]
    *parents, field = path.split(".")
    functools.reduce(lambda tree, name: tree[name], parents, cluster["spec"])[field] = value
    with pytest.raises(jsonschema.ValidationError, match=fault):
        schema_of("RayCluster").validate(cluster)


def ray_spec(manifests: list[Tree]) -> Tree:
    """The Ray cluster in a set of manifests, of which there is one."""
    [spec] = [one["spec"] for one in manifests if one["apiVersion"] == "ray.io/v1"]
    found: Tree = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return found


def test_all_that_manifests_refer_to_is_there(manifests: list[Tree]) -> None:
    named = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    spaces = {one["metadata"].get("namespace") for one in manifests if one["kind"] != "Namespace"}
    [namespace] = [name for kind, name in named if kind == "Namespace"]
    assert spaces == {namespace}

    said = "\n".join(header(path) for path in CLUSTER.rglob("kustomization.yaml"))
    told = dict[str, set[str]]()
    commands = said.replace("\\\n", " ").splitlines()
    for line in commands:
        if made := re.search(r"kubectl create secret generic (\S+)", line):
            told.setdefault(made[1], set()).update(re.findall(r"--from-literal (\S+?)=", line))
            assert f"--namespace {namespace}" in line
    for reference in found_under(manifests, "secretKeyRef"):
        assert reference["key"] in told[reference["name"]]
    for reference in found_under(manifests, "secretRef"):
        assert reference["name"] in told
        assert reference["optional"]
    spec = ray_spec(manifests)
    assert "auth_token" in told[spec["authOptions"]["secretName"]]

    host, _, port = spec["gcsFaultToleranceOptions"]["redisAddress"].partition(":")
    service = named["Service", host]["spec"]
    assert int(port) in [one["port"] for one in service["ports"]]
    pods = named["StatefulSet", host]["spec"]
    assert pods["template"]["metadata"]["labels"] == service["selector"]
    assert pods["selector"]["matchLabels"] == service["selector"]
    for name in found_under(manifests, "serviceAccountName"):
        assert ("ServiceAccount", name) in named


def test_the_cluster_is_safe_and_bears_failures(manifests: list[Tree]) -> None:
    spec = ray_spec(manifests)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["enableInTreeAutoscaling"]
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    [head] = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= head.keys()
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        pod = group["template"]["spec"]
        [worker] = pod["containers"]
        assert worker["resources"]["limits"]["nvidia.com/gpu"]
        assert "nvidia.com/gpu" in [toleration["key"] for toleration in pod["tolerations"]]
        assert {"startupProbe", "livenessProbe"} <= worker.keys()
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in [group["template"]["spec"] for group in groups]:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                assert port in {None, 52365, *ports}
    for container in containers(manifests):
        assert re.fullmatch(r"\S+:\d[\w.]*", container["image"]), "an image without a version"


def test_the_job_ends_and_costs_nothing_afterwards() -> None:
    [job] = [one["spec"] for one in assembled("job") if one["kind"] == "RayJob"]
    assert job["shutdownAfterJobFinishes"]  # without it KubeRay ignores the next line
    assert job["ttlSecondsAfterFinished"] > 0
    assert job["activeDeadlineSeconds"] > 0
    assert job["backoffLimit"] > 0
    # On the head, as long as it asks for no CPU or GPU of its own.
    assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & job.keys()
    program, command, spec, *options = shlex.split(job["entrypoint"])
    assert program == "raythief"
    assert command in typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert options[::2] == ["--set"]
    loaded = config.load(ROOT / Path(spec).relative_to(IN_IMAGE), options[1::2])
    assert loaded.storage.startswith("s3://")


@pytest.fixture
def served() -> Tree:
    """The application of rayservice.yaml, as Ray Serve reads it."""
    [service] = [one["spec"] for one in assembled("service") if one["kind"] == "RayService"]
    tree: Tree = yaml.safe_load(service["serveConfigV2"])
    # Serve's own reading, which refuses unknown fields.
    ServeDeploySchema.model_validate(tree)
    [application] = tree["applications"]
    application["args"]["spec"] = str(
        ROOT / Path(application["args"]["spec"]).relative_to(IN_IMAGE)
    )
    return application


def test_the_service_is_the_victim_of_raythief_serve(
    served: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._common.utils import import_attr
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    model = hub_server.tiny_victim(tmp_path)
    served["args"]["overrides"] += [f"victim.model={model}", "victim.labels=null"]
    build = functools.partial(
        call_user_app_builder_with_args_if_necessary, import_attr(served["import_path"])
    )
    with pytest.raises(UserError, match="RAYTHIEF_SERVE_KEY is not set"):
        build(served["args"])
    monkeypatch.setenv("RAYTHIEF_SERVE_KEY", "a-key")
    [deployment] = [build(served["args"])._bound_deployment]
    assert deployment.func_or_class is Victim
    assert deployment.ray_actor_options == {"num_cpus": 4.0, "num_gpus": 1.0}
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 8)
    source, *_, kept = deployment.init_args
    assert source.path == str(model)
    assert kept == digest("a-key")
    # Only that cluster's GPU workers hold a replica, and as many as there may be replicas.
    [group, _] = ray_spec(assembled("service"))["workerGroupSpecs"]
    assert group["maxReplicas"] == scaling.max_replicas
    [worker] = group["template"]["spec"]["containers"]
    assert float(worker["resources"]["requests"]["cpu"]) >= deployment.ray_actor_options["num_cpus"]


@pytest.mark.parametrize("arguments", [{}, {"spec": "a.yaml", "set": ["serve.gpus=1"]}])
def test_a_service_with_wrong_arguments_says_so(arguments: Tree) -> None:
    with pytest.raises(UserError, match="args: give `spec`"):
        serving.app(arguments)


# --- scripts and the image --------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    checked = subprocess.run(
        [TOOLS / "shellcheck", "--shell", "bash", "--format", "gcc", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"


def test_the_dockerfile_is_sound() -> None:
    checked = subprocess.run(
        [TOOLS / "hadolint", "--no-color", CLUSTER / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    lines = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    users = [rest for name, rest in steps if name == "USER"]
    assert users
    assert all(int(user.partition(":")[0]) > 0 for user in users), "root, or a name"
    assert "ADD" not in [name for name, _ in steps]
    assert [rest for name, rest in steps if name == "WORKDIR"] == [str(IN_IMAGE)]
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set[str]()
    for name, rest in steps:
        if name == "COPY":
            copied |= set([word for word in rest.split() if not word.startswith("--")][:-1])
    assert copied == let_in, "what is copied and what .dockerignore lets in differ"
    assert all((ROOT / path).exists() for path in copied)


# --- Slurm ------------------------------------------------------------------------------------


STUBS = {
    "scontrol": """
        if [[ $1 == show ]]; then printf "node%s\\n" $(seq "$NODES"); else note "scontrol $*"; fi
    """,
    "srun": """
        case "$*" in
            *hostname*) echo 10.0.0.1 fe80::1 ;;
            *health-check*) grep -q "begin head" "$LOG" && note health-check ;;
            *--head*) note "srun $*" && stay head ;;
            *) note "srun $*" && stay workers ;;
        esac
    """,
    "python": """
        if [[ $2 == *token_hex* ]]; then echo secret; exit; fi
        until [[ $NODES == 1 ]] || grep -q "begin workers" "$LOG"; do sleep 0.05; done
        note "nodes ${@: -1}"
    """,
    "raythief": """
        note "raythief $* at $RAY_ADDRESS with $RAY_AUTH_MODE $RAY_AUTH_TOKEN"
        [[ $2 != quick ]] || exit 0
        [[ $1 == run ]] || exit 7
        stay raythief
    """,
}
"""Commands that write down how they were called, and stay as the real ones do."""
PREAMBLE = """#!/usr/bin/env bash
note() { echo "$*" >> "$LOG"; }
stay() {
    trap "note end $1; exit 0" TERM
    note "begin $1"
    while :; do sleep 0.05; done
}
"""


class Slurm:
    """The batch script as Slurm runs it, on stubs."""

    def __init__(self, folder: Path, *, nodes: int = 3) -> None:
        self.log = folder / "calls"
        self.log.touch()
        tools = folder / "tools"
        tools.mkdir()
        for name, body in STUBS.items():
            (tools / name).write_text(PREAMBLE + textwrap.dedent(body))
            (tools / name).chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "NODES": str(nodes),
            "LOG": str(self.log),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_SUBMIT_DIR": str(folder),
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        script = CLUSTER / "slurm" / "raythief.sbatch"
        return subprocess.Popen(["bash", script, *arguments], env=self.environment)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def until(self, call: str) -> None:
        deadline = time.monotonic() + 60
        while call not in self.calls():
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.05)


COMMAND = ("run", "jobs/table2.yaml", "--set", "storage=/scratch/raythief")


@pytest.mark.parametrize(
    ("number", "requeued"),
    [(signal.SIGTERM, False), (signal.SIGUSR1, True)],
    ids=["cancel", "limit"],
)
def test_slurm_starts_in_order_and_ends_cleanly_on_a_signal(
    tmp_path: Path, number: int, requeued: bool
) -> None:
    slurm = Slurm(tmp_path)
    job = slurm.start(*COMMAND)
    slurm.until("begin raythief")
    job.send_signal(number)
    assert job.wait(timeout=60) == (0 if requeued else 143)
    on_head = "srun --nodes=1 --ntasks=1 --overlap --nodelist node1"
    ray_start = "ray start --block --num-cpus 16 --metrics-export-port 8080"
    calls = slurm.calls()
    assert calls == [
        f"{on_head} {ray_start} --head --node-ip-address 10.0.0.1 --port 6379",
        "begin head",
        "health-check",
        f"srun --nodes=2 --ntasks=2 --exclude node1 {ray_start} --address 10.0.0.1:6379",
        "begin workers",
        "nodes 3",
        f"raythief {' '.join(COMMAND)} at 10.0.0.1:6379 with token secret",
        "begin raythief",
        "end raythief",
        "end workers",
        "end head",
        *(["scontrol requeue 42"] if requeued else []),
    ]


def test_slurm_ends_with_raythief_s_own_status(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, nodes=1)
    assert slurm.start("run", "quick").wait(timeout=60) == 0
    assert slurm.calls()[-1] == "end head"
    assert not [call for call in slurm.calls() if "--exclude" in call], "one node has no workers"
    assert slurm.start("mistyped").wait(timeout=60) == 7
    assert slurm.start().wait(timeout=60) == 2


# --- documents --------------------------------------------------------------------------------


DOCUMENTS = sorted(CLUSTER.rglob("*.md"))


def test_the_chapters_begin_with_a_command_and_fit_a_screen() -> None:
    text = (CLUSTER / "README.md").read_text()
    chapters = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert list(chapters) == [
        "Your laptop",
        "One GPU box",
        "AWS",
        "Google Cloud",
        "Kubernetes",
        "Slurm",
        "Your own machines",
        "What has been tried",
    ]
    del chapters["What has been tried"]
    for title, part in chapters.items():
        lines = part.splitlines()
        assert lines[2].startswith("    "), f"{title} does not begin with a command"
        assert len(lines) <= 40, f"{title} is more than a screen"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *WITH_HEADER], ids=lambda path: str(path.relative_to(CLUSTER))
)
def test_commands_and_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text() if path.suffix == ".md" else header(path)
    for file in re.findall(r"(?<![\w/.-])(?:cluster|jobs|tests|raythief)/[\w./-]*\w", text):
        assert (ROOT / file).exists(), file
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^(?:    | +)(raythief .*)|`(raythief [^`]*)`", text, re.MULTILINE)
    for line in ["".join(found) for found in lines]:
        command, *arguments = line.split()[1:]
        assert command in commands or command.isupper() or command == "--help", line
        known = {option for one in commands.values() for part in one.params for option in part.opts}
        for option in (word for word in arguments if word.startswith("--")):
            assert option in known | {"--help"}, line
