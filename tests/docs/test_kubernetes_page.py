"""The manifests and the SQL of docs/kubernetes.md."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest
from benchmarks import scaling
from sqlalchemy.engine import Engine

from worker.core.settings import Settings
from worker.jobs import queue

ROOT = Path(__file__).parents[2]
MANIFESTS = ("worker", "migrate", "keda")

# The lock file has both: where one is missing, the check of the manifests fails and is not skipped.
validator: Any = import_module("kubernetes_validate")
yaml: Any = import_module("yaml")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docs" / "kubernetes" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_manifests_keep_the_schemas_of_the_api(name: str) -> None:
    for document in documents(name):
        if document["apiVersion"].startswith("keda.sh/"):
            continue  # its schema is in no package
        for version in ("1.31", validator.latest_version()):
            validator.validate(document, version, strict=True)


def test_a_mistake_in_a_manifest_is_found() -> None:
    (_, deployment) = documents("worker")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]["prot"] = 1
    with pytest.raises(validator.ValidationError):
        validator.validate(deployment, validator.latest_version(), strict=True)


def test_a_pod_that_is_taken_away_can_finish_its_job() -> None:
    (_, deployment) = documents("worker")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    assert float(settings["WORKER_GRACE_S"]) >= float(settings["WORKER_HARD_LIMIT_S"])
    assert pod["terminationGracePeriodSeconds"] > float(settings["WORKER_GRACE_S"])
    known = {f"WORKER_{name.upper()}" for name in Settings.model_fields}
    assert set(settings) <= known


def test_keda_finds_what_it_refers_to() -> None:
    secret, authentication, scaled = documents("keda")
    (target,) = authentication["spec"]["secretTargetRef"]
    assert (target["name"], target["key"]) == (secret["metadata"]["name"], *secret["stringData"])
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == documents("worker")[1]["metadata"]["name"]


def test_the_role_of_the_autoscaler_reads_the_demand_and_nothing_else(
    engine: Engine, sql: psycopg.Connection
) -> None:
    for product in ("1", "2", "3"):
        queue.enqueue(engine, shop="a", product_id=product, image_urls=["http://a/b"])
    queue.enqueue(engine, shop="a", product_id="4", image_urls=["http://a/b"], pool="large")
    sql.execute("UPDATE jobs SET run_after = now() + interval '1 h' WHERE product_id = '3'")
    assert queue.claim(engine, worker="w", lease_s=30)
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    role, ask = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert documents("keda")[2]["spec"]["triggers"][0]["metadata"]["query"] == ask.strip().rstrip(";")
    sql.execute(role.encode())
    try:
        sql.execute("SET ROLE scaler")
        assert sql.execute("SELECT * FROM worker.demand ORDER BY pool").fetchall() == [
            ("default", 1, 1),
            ("large", 1, 0),
        ]
        assert sql.execute(ask.encode()).fetchone() == (2,)
        for relation in (
            "public.jobs",
            "public.job_status",
            "worker.hosts",
            "worker.outbox",
            "worker.attempts",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(f"SELECT * FROM {relation}".encode())
        for call in ("served_lines()", "supersede_rest()", "is_live(now())", "stop_job(NULL, NULL)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(f"SELECT worker.{call}".encode())
    finally:
        sql.execute("RESET ROLE; DROP OWNED BY scaler; DROP ROLE scaler")


def test_the_scaling_rule_does_every_job_with_more_hosts_where_more_is_to_do() -> None:
    host = scaling.Host()
    arrivals = [100.0 + n / 10 for n in range(300)]
    rule = scaling.replay(arrivals, scaling.Rule.read(), host)
    alone, many = (scaling.replay(arrivals, scaling.Rule.fixed(pods), host) for pods in (1, 8))
    assert rule["jobs"] == alone["jobs"] == len(arrivals)
    assert many["wait_p95_s"] <= rule["wait_p95_s"] < alone["wait_p95_s"]
    assert alone["host_hours"] < rule["host_hours"] < many["host_hours"]
