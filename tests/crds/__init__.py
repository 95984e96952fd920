"""The custom resources that deploy/ uses, by the schemas that their operators publish.

A file a kind: which release it is of, the SHA-256 of the CustomResourceDefinition that it was taken from, and
the schema of the version in use, without descriptions and status. To take another release, name it and its
files:

    python -m tests.crds "KEDA v2.20.2" keda.sh_scaledobjects.yaml

Gateway API, KEDA and the Prometheus operator have the definitions in their Go modules (config/crd,
example/prometheus-operator-crd). Strimzi's are written by io.strimzi:crd-generator (Maven) of io.strimzi:api:
CrdGenerator --target-kube 1.16+ --crd-api-version v1 --api-versions v1 --storage-version v1 --yaml CLASS=FILE
All are under the Apache License 2.0.
"""

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent


@cache
def schema_of(api_version: str, kind: str) -> Any:
    """The schema of a kind, in which an unknown field is an error. Raises KeyError if there is none here."""
    path = FOLDER / f"{kind}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("apiVersion") != api_version:
        raise KeyError(f"no schema of {api_version} {kind} in {FOLDER}")
    return _strict(found["schema"])


def faults(manifest: Mapping[str, Any]) -> list[str]:
    """What an API server with that definition would refuse. Raises KeyError for a kind that is not here."""
    validator = Draft202012Validator(schema_of(manifest["apiVersion"], manifest["kind"]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def taken(definition: bytes, origin: str) -> tuple[str, str]:
    """Of a CustomResourceDefinition (YAML): the name and the text of the file that keeps its schema."""
    crd = yaml.safe_load(definition)
    spec, kind = crd["spec"], crd["spec"]["names"]["kind"]
    stored = next(version for version in spec["versions"] if version["storage"])
    schema = _without_prose(stored["schema"]["openAPIV3Schema"])
    schema["properties"].pop("status", None)
    kept = {
        "apiVersion": f"{spec['group']}/{stored['name']}",
        "kind": kind,
        "origin": origin,
        "sha256": sha256(definition).hexdigest(),
        "schema": schema,
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in kept.items()]
    return f"{kind}.json", "{\n" + ",\n".join(lines) + "\n}\n"


def _without_prose(schema: Any, *, names: bool = False) -> Any:
    """`schema` without descriptions and examples. `names`: its keys are names of fields."""
    if isinstance(schema, dict):
        dropped = () if names else ("description", "example")
        return {
            key: _without_prose(value, names=key == "properties" and not names)
            for key, value in schema.items()
            if key not in dropped
        }
    return [_without_prose(item) for item in schema] if isinstance(schema, list) else schema


def _strict(schema: Any) -> Any:
    """`schema` as JSON Schema that knows Kubernetes' own words, and refuses fields that it does not name."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _fields(value) if key == "properties" else _strict(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made["type"] = ["integer", "string"]
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    open_to_any = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if "properties" in made and not open_to_any:
        made["additionalProperties"] = False
    return made


def _fields(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: _strict(schema) for name, schema in properties.items()}
