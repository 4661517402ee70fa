"""The files of docs/deploy, as far as a machine without Docker can: every name in them is one of ours."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.make_engine import make_runtime

from branchwork.runtime.options import variable
from branchwork.runtime.server.app import ROUTES
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.metrics import Metrics
from branchwork.runtime.wire.config import RuntimeConfig, flag_of
from branchwork.runtime.wire.messages import Usage

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "api_key")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
SPECS = (*fields(ServerConfig), *fields(RuntimeConfig))


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text()) if each]


def the(kind: str) -> dict[str, Any]:
    """The one Kubernetes object of this kind."""
    (found,) = [each for each in documents("kubernetes.yaml") if each["kind"] == kind]
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.split("\n"))]


def drain_s(text: str) -> float:
    """The drain time that a file gives the server."""
    found = re.search(r"(?:--drain-timeout[\", ]+|BRANCHWORK_DRAIN_TIMEOUT: \")(\d+)", text)
    assert found is not None
    return float(found[1])


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_options_in_the_files_exist(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"BRANCHWORK_[A-Z_]*[A-Z]", text)) <= {variable(spec) for spec in SPECS}
    known = {flag_of(spec) for spec in SPECS}
    for line in text.splitlines():
        if "branchwork serve" in line or "args:" in line or path.name == "README.md":
            assert set(re.findall(r"--[a-z][a-z-]+", line)) <= known, line


def test_the_dashboard_and_the_autoscaler_ask_for_metrics_that_exist() -> None:
    metrics = Metrics()
    metrics.requests.labels("/", "200").inc()
    metrics.add_usage(Usage())
    text = metrics.text(dict(make_runtime().engine.stats())).decode()
    offered = set(re.findall(r"(?m)^(branchwork_\w+)", text))
    board = json.loads((DEPLOY / "grafana" / "branchwork.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"branchwork_\w+", " ".join(queries)))
    assert len(asked) > 15
    assert asked <= offered
    (scaling,) = the("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert scaling["pods"]["metric"]["name"] in offered


def test_paths_that_are_probed_and_scraped_are_routes() -> None:
    paths = {route.path for route in ROUTES if route.method == "GET"}
    (job,) = documents("prometheus.yaml")[0]["scrape_configs"]
    assert job["metrics_path"] in paths
    container = the("Deployment")["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        # Without a key only this one answers, and the kubelet has none.
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}


# ------------------------------------------------------------------ Docker


def test_the_image_is_pinned_slim_and_not_roots() -> None:
    found = instructions()
    bases = [rest for word, rest in found if word == "FROM"]
    assert all(re.match(r"python:3\.\d+-slim", base) for base in bases)
    words = [word for word, _ in found]
    assert dict(found)["USER"] == "10001"
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "ADD" not in words
    for word, rest in found:
        if word in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list), "a shell would not pass on SIGTERM"
        if "pip install" in rest:
            assert "--no-cache-dir" in rest


def test_what_the_image_copies_is_there_and_is_not_ignored() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert source == "." or (ROOT / source).exists()
                assert f"!{source}" in ignored


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_follows_the_status(status: int, code: int) -> None:
    (check,) = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    command = json.loads(check[check.index("[") :])
    answering = type("Handler", (Answering,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), answering) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        script = command[2].replace(":8000", f":{server.server_port}")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30)
        assert done.returncode == code


def test_compose_mounts_what_is_there_and_waits_longer_than_the_drain() -> None:
    (compose,) = documents("compose.yaml")
    server = compose["services"]["branchwork"]
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    text = (DEPLOY / "compose.yaml").read_text()
    assert int(server["stop_grace_period"].removesuffix("s")) > drain_s(text)
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            assert (DEPLOY / volume.partition(":")[0]).is_file(), volume
        assert ":latest" not in service.get("image", "")
    scraped = documents("prometheus.yaml")[0]["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == ["branchwork:8000"]


# ------------------------------------------------------------------ Kubernetes, systemd


def test_kubernetes_objects_point_at_each_other() -> None:
    deployment = the("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert the("Service")["spec"]["selector"] == labels
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    target = the("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", ServerConfig().port)
    assert the("Service")["spec"]["ports"][0]["targetPort"] == "http"


def test_a_pod_has_time_for_prestop_and_drain() -> None:
    pod = the("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = drain_s(str(container["args"]).replace("'", '"'))
    assert pod["terminationGracePeriodSeconds"] > pause + drain
    assert pod["securityContext"]["runAsNonRoot"] is True
    # The kubelet must not kill a gateway that is busy to restart its runtime.
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > 120


def test_the_unit_waits_longer_than_the_drain() -> None:
    text = (DEPLOY / "branchwork.service").read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > drain_s(text)
    assert service["DynamicUser"] == "yes"
    assert "MemoryDenyWriteExecute" not in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "branchwork.service"
    text = (DEPLOY / "branchwork.service").read_text()
    unit.write_text(text.replace("/opt/branchwork/bin/branchwork", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "branchwork.service" in line]
    assert complaints == []
