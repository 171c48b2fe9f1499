"""`openapi.yaml`: valid, complete, and true: of the routes, the codes and the replies of a running server."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from importlib import resources
from importlib.metadata import metadata

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import validate

from leeway.protocol import fields, limits, routes
from leeway.protocol.codes import STATUS, Code
from leeway.protocol.policy_terms import MODES
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.rights import Right, needed
from leeway.protocol.tensors import DTYPES, Kind
from leeway.protocol.times import StepTimes
from leeway.ps.arithmetic.schedules import Schedule
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from leeway.ps.core.rounds import RoundState
from tests.ps.server.eventstream import watch
from tests.ps.server.rawclient import FRAME, frame
from tests.ps.server.serving import MODEL

METHODS = {"get", "put", "post", "delete", "patch", "options"}
FILE = resources.files("leeway.ps.server.http").joinpath("openapi.yaml")


def load():
    return yaml.safe_load(FILE.read_bytes())


@pytest.fixture(scope="module")
def api():
    return load()


@pytest.fixture(scope="module")
def schemas(api):
    return api["components"]["schemas"]


@pytest.fixture(scope="module")
def check(api):
    """Validate a document against a schema of the file, by name or by its place."""

    def check(document, schema):
        reference = schema if schema.startswith("#") else f"#/components/schemas/{schema}"
        Draft202012Validator({"$ref": reference, "components": api["components"], "paths": api["paths"]}).validate(
            document
        )

    return check


def operations(api):
    return {
        (method.upper(), path): operation
        for path, item in api["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


class TestFile:
    def test_is_valid(self, api):
        validate(api)

    def test_has_the_routes_of_the_router_and_no_others(self, api, server_routes):
        assert set(operations(api)) == server_routes

    def test_every_path_is_one_of_the_protocol(self, api):
        paths = {value for name, value in vars(routes).items() if name.isupper() and str(value).startswith("/")}
        # What stages of a pipeline answer is none of a server's.
        assert set(api["paths"]) == paths - {routes.HANDOVERS}

    def test_every_operation_says_what_it_is(self, api):
        ids = []
        tags = {tag["name"] for tag in api["tags"]}
        for operation in operations(api).values():
            assert operation["summary"].endswith(".")
            assert set(operation["tags"]) <= tags
            for refused in ("4XX", "default"):
                assert operation["responses"][refused] == {"$ref": "#/components/responses/Problem"}
            ids.append(operation["operationId"])
        assert len(set(ids)) == len(ids)

    def test_says_whose_it_is(self, api):
        assert api["info"]["license"]["identifier"] == metadata("leeway")["License-Expression"]
        assert api["servers"]

    def test_says_which_right_each_operation_needs(self, api):
        schemes = set(api["components"]["securitySchemes"])
        assert {name for each in api["security"] for name in each} == schemes == {"token", "session"}
        for (method, path), operation in operations(api).items():
            right = needed(method, path)
            said = [] if right is None else [{"token": [right]}, {"session": [right]}]
            assert operation["security"] == said, (method, path)

    def test_redocly_finds_nothing_to_say_about_it(self, tmp_path):
        """Its recommended rules. What they found once is tested around here too, without Node."""
        program = shutil.which("redocly")
        if program is None:
            pytest.skip("redocly is not installed: npm install --global @redocly/cli")
        (tmp_path / "openapi.yaml").write_bytes(FILE.read_bytes())
        linted = subprocess.run(
            [program, "lint", "openapi.yaml", "--extends", "recommended", "--format", "json"],
            cwd=tmp_path,
            env=os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = json.loads(linted.stdout)
        assert (said["totals"]["errors"], said["totals"]["warnings"]) == (0, 0), said["problems"]
        assert linted.returncode == 0

    def test_every_component_is_used(self, api):
        text = json.dumps(api)
        for section, components in api["components"].items():
            if section == "securitySchemes":
                continue  # they are named, not referred to
            for name in components:
                assert f'"#/components/{section}/{name}"' in text, (section, name)

    def test_path_parameters_are_described(self, api):
        for path, item in api["paths"].items():
            named = set(re.findall(r"{(\w+)}", path))
            described = set()
            for parameter in item.get("parameters", []):
                if "$ref" in parameter:
                    parameter = api["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
                if parameter["in"] == "path":
                    described.add(parameter["name"])
            assert named == described


@pytest.fixture
async def server_routes(server):
    """(method, path) of the running application. HEAD comes with every GET."""
    from aiohttp import web

    from leeway.ps.server.http.handlers import Handlers
    from leeway.ps.server.http.sessions import Sessions
    from leeway.transport.http.counts import Uncounted
    from leeway.transport.http.gate import Gate

    app = web.Application()
    handlers = Handlers(server.runtime, None, 1024, Uncounted(), Gate(), Sessions(float, secure=False))
    app.add_routes(handlers.table())
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


class TestEnums:
    def test_codes_and_their_status(self, schemas):
        described = [(row["const"], int(row["description"][1:4])) for row in schemas["Code"]["oneOf"]]
        assert sorted(described) == sorted((str(code), STATUS[code]) for code in Code)

    @pytest.mark.parametrize(
        ("schema", "enum"),
        [
            ("Reason", Reason),
            ("Disposition", Disposition),
            ("UpdateKind", UpdateKind),
            ("Kind", Kind),
            ("DType", DTYPES),
            ("Mode", MODES),
        ],
    )
    def test_are_those_of_the_code(self, schemas, schema, enum):
        assert schemas[schema]["enum"] == [str(value) for value in enum]

    def test_of_rights(self, schemas):
        assert schemas["Session"]["properties"]["rights"]["items"]["enum"] == list(Right)

    def test_of_the_optimizer(self, schemas):
        properties = schemas["OptimizerFields"]["properties"]
        assert list(properties) == [field.name for field in dataclasses.fields(OptimizerSettings)]
        assert properties["kind"]["enum"] == [str(kind) for kind in OptimizerKind]
        assert properties["lr_schedule"]["enum"] == [str(schedule) for schedule in Schedule]

    def test_settings_that_do_not_exist_are_not_described(self, check):
        with pytest.raises(ValidationError):
            check({"learning_rate": 1}, "OptimizerSettings")

    def test_round_states(self, schemas):
        states = schemas["GroupStatus"]["properties"]["round"]["properties"]["state"]["enum"]
        assert states == [str(state) for state in RoundState]

    def test_limits(self, schemas):
        assert schemas["Integer"]["maximum"] == fields.MAX_INTEGER
        assert schemas["Push"]["properties"]["parts"]["maximum"] == limits.MAX_PARTS
        assert schemas["Push"]["properties"]["metrics"]["maxProperties"] == limits.MAX_REPORTED_METRICS
        assert schemas["StepSeconds"]["maximum"] == limits.MAX_STEP_SECONDS
        assert schemas["StepTimes"]["maxProperties"] == limits.MAX_STEP_TIMES
        assert schemas["Barrier"]["properties"]["parties"]["maximum"] == limits.MAX_RANKS
        assert schemas["SetPolicy"]["properties"]["staleness"]["maximum"] == limits.MAX_STALENESS
        assert schemas["Join"]["properties"]["session"]["maxLength"] == limits.MAX_SESSION_LENGTH
        assert schemas["Join"]["properties"]["groups"]["maxItems"] == limits.MAX_GROUPS
        assert schemas["Ask"]["properties"]["specs"]["maxItems"] == limits.MAX_TENSORS
        assert schemas["NotYet"]["properties"]["waiting_for"]["maxItems"] == limits.MAX_NAMED_WAITERS
        name, _, _, shape = schemas["TensorSpec"]["prefixItems"]
        assert (name["maxLength"], shape["maxItems"]) == (limits.MAX_NAME, limits.MAX_NDIM)


class TestReplies:
    """Real replies of a running server."""

    async def test_of_a_worker(self, server, check, gradient):
        session = {"rank": "w0", "session": "s"}
        check(session, "Join")
        check((await server.post("/v1/workers", session)).json, "Joined")
        worker = await server.join("w1")
        granted = await worker.pull()
        check(granted.frame.message, "Granted")
        check(worker.push_message(metrics={"loss": 1.0}, times=StepTimes(0, 0.5).to_fields()), "Push")
        check((await worker.push(gradient, metrics={"loss": float("inf")})).json, "Pushed")
        check((await server.get("/v1/status")).json, "Status")
        check((await server.post("/v1/workers", {"rank": "w1", "session": worker.session})).json, "Joined")
        unchanged = await worker.pull(since=f"{worker.epoch}.2")
        check(json.loads(unchanged.headers["leeway-grant"]), "Granted")
        check((await worker.push({"bias": np.ones(3, np.float32)}, parts=2)).json, "Staged")
        target = f"/v1/workers/w1/lease?epoch={worker.epoch}&incarnation={worker.incarnation}"
        check((await server.put(target)).json, "Renewed")
        check((await worker.leave()).json, "Departed")

    async def test_of_pushpulls(self, start, check, gradient):
        server = await start(mode="ssp", staleness=0, until=2)
        await server.offer()
        worker, other = await server.join("w0"), await server.join("w1")
        await worker.pull()
        waits = (await worker.push(gradient, query="?pull=1")).frame.message
        check(waits, "PushPulled")
        check(waits["pull"], "NotYet")
        await other.step(gradient)
        worker.clock = 1
        await worker.pull()
        refused = (await worker.push(gradient, query="?pull=1")).frame.message
        check(refused, "PushPulled")
        check(refused["pull"], "Problem")
        await other.pull()
        held = (await other.push(gradient)).json
        check(held, "Pushed")

    async def test_of_a_granted_pushpull(self, server, worker, check, gradient):
        told = (await worker.push(gradient, query="?pull=1")).frame.message
        check(told, "PushPulled")
        check(told["pull"], "Granted")

    async def test_of_waiting(self, start, check, gradient):
        server = await start(mode="sync", workers=2)
        worker = await server.join("w0")
        for _ in range(2):
            reply = await worker.pull()
            assert reply.status == 204
            check(json.loads(reply.headers["leeway-reason"]), "NotYet")
            await server.offer()
        await server.join("w1")
        await worker.pull()
        check((await worker.push(gradient)).json, "Pushed")
        check((await server.get("/v1/status")).json, "Status")
        barrier = {**worker.life, "generation": 0}
        check(barrier, "Barrier")
        check(json.loads((await server.post("/v1/barriers/b", barrier)).headers["leeway-reason"]), "NotYet")

    async def test_of_an_offer(self, server, check):
        ask = {"specs": [["weight", "float32", "trainable", [4, 3]], ["new", "float32", "trainable", []]]}
        check(ask, "Ask")
        check((await server.put("/v1/params?ask=1", ask)).json, "Offered")
        reply = await server.put("/v1/params", frame({}, MODEL), {"Content-Type": FRAME})
        check(reply.json, "Offered")

    async def test_of_the_run(self, server, worker, check):
        check((await server.get("/v1/policy")).json, "PolicyState")
        check((await server.get("/v1/policy/preview?mode=sync&quorum=1")).json, "PolicyPreview")
        check({"mode": "sync"}, "SetPolicy")
        check((await server.put("/v1/policy", {"mode": "sync"})).json, "PolicyState")
        check((await server.get("/v1/status")).json, "Status")
        check((await server.get("/v1/optimizer")).json, "OptimizerState")
        check({"lr": 0.5}, "OptimizerSettings")
        check((await server.put("/v1/optimizer", {"lr": 0.5, "clip_norm": 1.0})).json, "OptimizerState")
        check((await server.get("/readyz")).json, "Readiness")
        reply = await server.post("/v1/barriers/b", {**worker.life, "generation": 0})
        check(reply.json, "Passed")

    async def test_of_events(self, server, worker, check, gradient):
        server.advance(0.1)
        seen = set()
        async with watch(server) as stream:
            await worker.push(gradient, metrics={"loss": 0.5})
            while seen != {"status", "curve", "decision", "point"}:
                server.advance(1.0)
                message = await stream.message()
                event = {"event": message.event, "data": message.data}
                check(event if message.id is None else event | {"id": str(message.id)}, "Event")
                seen.add(message.event)

    async def test_of_checkpoints(self, start, check, tmp_path):
        server = await start(state_dir=tmp_path)
        await server.offer()
        check((await server.post("/v1/checkpoints")).json, "SavedCheckpoint")
        for row in (await server.get("/v1/checkpoints")).json["checkpoints"]:
            check(row, "Checkpoint")

    async def test_of_a_session(self, server, check):
        check({"token": "x"}, "Login")
        check((await server.get("/v1/session")).json, "Session")

    async def test_of_refusals(self, server, worker, check, gradient):
        await worker.step(gradient)
        refusals = [
            await server.get("/nowhere"),
            await server.push(b""),
            await worker.push(gradient, epoch=1),
            await worker.push(gradient, clock=9),
            await worker.push({"bias": np.ones(9, np.float32)}),
            await server.get("/v1/params", {"Accept": "text/html"}),
            await server.post("/v1/checkpoints"),
        ]
        await worker.leave()
        refusals.append(await worker.push(gradient, clock=1))
        for reply in refusals:
            check(reply.problem, "Problem")

    async def test_the_served_file_is_this_one(self, server):
        reply = await server.get("/openapi.yaml")
        assert yaml.safe_load(reply.body) == load()
