"""The recipes for clusters: files that parse, ask for what exists, and call the real command."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from harness.cli import app

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
SLURM = RECIPES / "slurm.sh"


def known_options() -> set[str]:
    command = typer.main.get_command(app).commands["score"]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def check_command(words: list[str]) -> None:
    """A `forgeteval score` line with options that exist and a study."""
    assert words[:2] == ["forgeteval", "score"], words
    assert {word for word in words if word.startswith("--")} <= known_options()
    assert words[2].endswith(".yaml") and "ray" in words


# --- Slurm -------------------------------------------------------------------------------------


def test_the_slurm_script_is_sound():
    assert subprocess.run(["bash", "-n", SLURM], capture_output=True).stderr == b""
    text = SLURM.read_text()
    assert text.startswith("#!/bin/bash\n") and "set -euo pipefail" in text
    if shutil.which("shellcheck"):
        found = subprocess.run(
            ["shellcheck", "-S", "warning", SLURM], capture_output=True, text=True
        )
        assert found.stdout == ""


def slurm_place(folder: Path, forgeteval: str) -> dict[str, str]:
    """A folder of programs that write down how they are called, instead of Slurm's and Ray's."""
    programs = {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'",
        # `srun` runs the command after its own options here, on no other machine.
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "hostname": "echo 10.0.0.1",
        "ray": f'echo "ray $*" >> {folder}/calls; [[ "$1" == health-check ]] || exec sleep 30',
        "forgeteval": f'echo "forgeteval $*" >> {folder}/calls; {forgeteval}',
    }
    for name, body in programs.items():
        file = folder / name
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "8", "STUDY": "study.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("code", [0, 6])
def test_the_slurm_script_starts_a_node_per_machine_and_one_writer(tmp_path: Path, code: int):
    environment = slurm_place(tmp_path, f"sleep 0.5; exit {code}")
    done = subprocess.run(
        ["bash", SLURM], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    calls = [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]
    starts = [call for call in calls if call[:2] == ["ray", "start"]]
    assert sum("--head" in call for call in starts) == 1
    assert sum("--address=10.0.0.1:6379" in call for call in starts) == 2
    assert all("--num-gpus=2" in call for call in starts)
    (writer,) = [call for call in calls if call[0] == "forgeteval"]
    check_command(writer)
    assert writer[writer.index("--workers") + 1] == "6"
    assert writer[writer.index("--address") + 1] == "10.0.0.1:6379"


def test_slurms_warning_reaches_the_writer(tmp_path: Path):
    stopped = (
        f"trap 'echo stopped >> {tmp_path}/calls; exit 130' TERM; while true; do sleep 0.1; done"
    )
    environment = slurm_place(tmp_path, stopped)
    job = subprocess.Popen(["bash", SLURM], env=environment)
    calls = tmp_path / "calls"
    try:
        until = time.monotonic() + 30
        while not (calls.exists() and "forgeteval" in calls.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.3)
        job.terminate()
        assert job.wait(30) == 130
    finally:
        job.kill()
    assert "stopped" in calls.read_text()


# --- Kubernetes ----------------------------------------------------------------------------------


def fields(*names: str, **known: Any) -> dict[str, Any]:
    """An object with these fields at most."""
    properties = {**{name: {} for name in names}, **known}
    return {"type": "object", "properties": properties, "additionalProperties": False}


COUNT = {"type": "integer", "minimum": 0}
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
CONTAINER = fields(
    "name", "image", "command", "args", "lifecycle", "ports",
    env={"type": "array", "items": fields("valueFrom", name={"type": "string"}, value={"type": "string"})},
    resources=fields(requests=PARAMETERS, limits=PARAMETERS),
    volumeMounts={"type": "array", "items": fields("readOnly", name={"type": "string"}, mountPath={"type": "string"})},
)  # fmt: skip
TEMPLATE = fields(
    "metadata",
    spec=fields(
        "nodeSelector", "tolerations", "affinity", "serviceAccountName", "imagePullSecrets",
        containers={"type": "array", "minItems": 1, "items": {**CONTAINER, "required": ["name", "image"]}},
        volumes={"type": "array", "items": {"type": "object", "required": ["name"]}},
    ),
)  # fmt: skip
GROUP = {"rayStartParams": PARAMETERS, "template": TEMPLATE}
# The fields of ray.io/v1 as KubeRay 1.x documents them; only what a RayJob can hold.
CLUSTER = fields(
    "headServiceAnnotations", "suspend", "gcsFaultToleranceOptions", "managedBy",
    rayVersion={"type": "string"},
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=fields(
        "version", "upscalingMode", "resources", "image", "imagePullPolicy", "env", "envFrom",
        "securityContext", "volumeMounts", idleTimeoutSeconds=COUNT,
    ),
    headGroupSpec=fields("serviceType", "headService", "enableIngress", "resources", "labels", **GROUP),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": {
            **fields(
                "scaleStrategy", "suspend", "resources", "labels", "idleTimeoutSeconds",
                groupName={"type": "string"}, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT,
                numOfHosts=COUNT, **GROUP,
            ),
            "required": ["groupName", "template"],
        },
    },
)  # fmt: skip
JOB = fields(
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object", "required": ["name"]},
    spec=fields(
        "jobId", "metadata", "clusterSelector", "submitterPodTemplate", "submitterConfig",
        "runtimeEnvYAML", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources",
        "suspend", "managedBy", "deletionStrategy", "preRunningDeadlineSeconds",
        entrypoint={"type": "string"},
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        rayClusterSpec=CLUSTER,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    (document,) = yaml.safe_load_all((RECIPES / "kuberay.yaml").read_text())
    return document


def test_the_ray_job_has_the_fields_of_its_api(job: dict[str, Any]):
    jsonschema.validate(job, JOB)


def test_a_field_that_the_api_does_not_have_would_be_found(job: dict[str, Any]):
    wrong = {**job, "spec": {**job["spec"], "entryPoint": "forgeteval"}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, JOB)


def test_the_ray_job_calls_the_command_with_options_that_exist(job: dict[str, Any]):
    words = shlex.split(job["spec"]["entrypoint"])
    check_command(words)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert int(words[words.index("--workers") + 1]) == group["maxReplicas"]


def test_volumes_are_there_and_head_and_workers_share_image_and_study(job: dict[str, Any]):
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    specs = [group["template"]["spec"] for group in groups]
    for spec in specs:
        mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        assert any(m["mountPath"] == "/study" for m in spec["containers"][0]["volumeMounts"])
    assert len({spec["containers"][0]["image"] for spec in specs}) == 1
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    limits = [spec["containers"][0]["resources"] for spec in specs]
    assert all(one["limits"] == one["requests"] for one in limits)
    assert (
        "nvidia.com/gpu" not in limits[0]["limits"] and limits[1]["limits"]["nvidia.com/gpu"] == "1"
    )
