"""Every route of the Docker Engine API, in one table: its class and the reason, in one line each. Pure.

open     everybody, as it is           own    the object must be the caller's own
rewrite  everybody; the request is built anew by us, or its answer narrowed
admin    administrators; for others not in this version
refuse   never for users, by design; administrators are root and may

A route that is not in the table is refused by name to everybody but administrators. Rows below the first list are not
in Docker's own documentation: BuildKit's two, checkpoints, and what old clients still ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ds01.docker_shim.model import Target


class Kind(StrEnum):
    """Who may use a route."""

    OPEN = "open"
    OWN = "own"
    REWRITE = "rewrite"
    ADMIN = "admin"
    REFUSE = "refuse"


class Action(StrEnum):
    """What is done with a request that may pass. `STREAM` is forwarded, and its answer may take for ever."""

    FORWARD = "forward"
    STREAM = "stream"
    PING = "ping"
    LIST = "list"
    CREATE = "create"
    START = "start"
    REMOVE = "remove"
    TAKE_OVER = "take-over"
    EXEC_CREATE = "exec-create"
    EXEC_START = "exec-start"


@dataclass(frozen=True, slots=True)
class Route:
    """One row. `query` are the parameters that users may send."""

    method: str
    path: str
    kind: Kind
    why: str
    action: Action = Action.FORWARD
    query: frozenset[str] = frozenset()

    @property
    def segments(self) -> tuple[str, ...]:
        """The path taken apart; `{id}` and `{name}` stand for what the client names."""
        return tuple(self.path.strip("/").split("/"))


@dataclass(frozen=True, slots=True)
class Match:
    """A row, and what the client put in the places of `{id}` or `{name}`."""

    route: Route
    parameters: Mapping[str, str]


def _row(method: str, path: str, kind: Kind, why: str, action: Action = Action.FORWARD, query: str = "") -> Route:
    return Route(method, path, kind, why, action, frozenset(query.split()))


OPEN, OWN, REWRITE, ADMIN, REFUSE = Kind.OPEN, Kind.OWN, Kind.REWRITE, Kind.ADMIN, Kind.REFUSE

_SWARM = "this machine is not a swarm, and a swarm's services run outside every user's slice"
_PLUGIN = "plugins run as root on the host"
_NETWORK = "networks of one's own are not offered in this version; containers share the default network"
_VOLUME = "volumes are not offered in this version; what must stay is kept in the image or the container"
_BUILD = "builds are not offered in this version; ask an administrator to build or load the image"
_REGISTRY = "images come through an administrator in this version; 'docker images' lists what is here"
_FILES = "copying files is not offered in this version; use 'docker exec -i NAME tar …'"
_CHECKPOINT = "checkpoints are written by root where the caller says"
_MONITOR = "it speaks of everybody's objects, and is not narrowed to one's own in this version"
_BUILDKIT = "the engine's BuildKit runs outside every user's slice; clients choose the classic builder by themselves"

_LOGS = "follow stdout stderr since until timestamps tail details"
_ATTACH = "detachKeys logs stream stdin stdout stderr"

ROUTES: tuple[Route, ...] = (
    _row("GET", "/_ping", OPEN, "says that the engine lives, and announces the classic builder", Action.PING),
    _row("HEAD", "/_ping", OPEN, "says that the engine lives, and announces the classic builder", Action.PING),
    _row("GET", "/version", OPEN, "names no object"),
    _row("GET", "/info", OPEN, "names no object, only counts"),
    _row("GET", "/images/json", OPEN, "images are shared", query="all filters digests shared-size"),
    _row("GET", "/images/{name}/json", OPEN, "images are shared"),
    _row(
        "POST",
        "/containers/create",
        REWRITE,
        "slice, labels, limits, lease are ours; the label 'ds01.wait' (empty, or a time such as '1h', 7 days at most) "
        "is the user's: with it a create, and each start, waits for its GPUs",
        Action.CREATE,
        "name platform",
    ),
    _row("GET", "/containers/json", REWRITE, "narrowed to one's own", Action.LIST, "all limit size filters"),
    _row("DELETE", "/containers/{id}", OWN, "its lease ends with it", Action.REMOVE, "v force"),
    _row("GET", "/containers/{id}/json", OWN, "shows environment and labels", query="size"),
    _row("GET", "/containers/{id}/logs", OWN, "its output", Action.STREAM, _LOGS),
    _row("POST", "/containers/{id}/attach", OWN, "its terminal", Action.TAKE_OVER, _ATTACH),
    _row("POST", "/containers/{id}/exec", OWN, "runs a process in it", Action.EXEC_CREATE),
    _row("POST", "/containers/{id}/kill", OWN, "ends it", query="signal"),
    _row("POST", "/containers/{id}/resize", OWN, "its terminal", query="h w"),
    _row("POST", "/containers/{id}/start", OWN, "slice and lease are made sure of first", Action.START, "detachKeys"),
    _row("POST", "/containers/{id}/stop", OWN, "ends it", query="signal t"),
    _row("POST", "/containers/{id}/wait", OWN, "tells when it ends", Action.STREAM, "condition"),
    _row("GET", "/exec/{id}/json", OWN, "shows a process of the container"),
    _row("POST", "/exec/{id}/resize", OWN, "its terminal", query="h w"),
    _row("POST", "/exec/{id}/start", OWN, "its terminal", Action.EXEC_START),
    _row("POST", "/auth", ADMIN, _REGISTRY),
    _row("POST", "/build", ADMIN, _BUILD),
    _row("POST", "/build/prune", REFUSE, _BUILDKIT),
    _row("POST", "/commit", ADMIN, "making images is not offered in this version"),
    _row("GET", "/configs", REFUSE, _SWARM),
    _row("POST", "/configs/create", REFUSE, _SWARM),
    _row("DELETE", "/configs/{id}", REFUSE, _SWARM),
    _row("GET", "/configs/{id}", REFUSE, _SWARM),
    _row("POST", "/configs/{id}/update", REFUSE, _SWARM),
    _row("POST", "/containers/prune", ADMIN, "use 'docker rm' on one's own containers in this version"),
    _row("GET", "/containers/{id}/archive", ADMIN, _FILES),
    _row("HEAD", "/containers/{id}/archive", ADMIN, _FILES),
    _row("PUT", "/containers/{id}/archive", ADMIN, _FILES),
    _row("GET", "/containers/{id}/attach/ws", ADMIN, "use 'docker attach' instead of a web socket", Action.TAKE_OVER),
    _row("GET", "/containers/{id}/changes", ADMIN, "not offered in this version"),
    _row("GET", "/containers/{id}/export", ADMIN, _FILES),
    _row("POST", "/containers/{id}/pause", ADMIN, "a paused container would keep its GPU; use 'docker stop'"),
    _row("POST", "/containers/{id}/rename", ADMIN, "not offered in this version; remove it and create it anew"),
    _row("POST", "/containers/{id}/restart", ADMIN, "use 'docker stop', then 'docker start'", Action.START),
    _row(
        "GET",
        "/containers/{id}/stats",
        ADMIN,
        "not offered in this version; 'ds01 status' shows what you use",
        Action.STREAM,
    ),
    _row("GET", "/containers/{id}/top", ADMIN, "use 'docker exec NAME ps' in this version"),
    _row("POST", "/containers/{id}/unpause", ADMIN, "nothing of yours is paused", Action.START),
    _row("POST", "/containers/{id}/update", ADMIN, "limits come from the policy; create it anew with others"),
    _row("GET", "/distribution/{name}/json", ADMIN, _REGISTRY),
    _row("GET", "/events", ADMIN, _MONITOR, Action.STREAM),
    _row("POST", "/images/create", ADMIN, _REGISTRY),
    _row("GET", "/images/get", ADMIN, _REGISTRY),
    _row("POST", "/images/load", ADMIN, _REGISTRY),
    _row("POST", "/images/prune", ADMIN, "images are shared; an administrator removes them in this version"),
    _row("GET", "/images/search", ADMIN, _REGISTRY),
    _row("DELETE", "/images/{name}", ADMIN, "images are shared; an administrator removes them in this version"),
    _row("GET", "/images/{name}/attestations", ADMIN, _REGISTRY),
    _row("GET", "/images/{name}/get", ADMIN, _REGISTRY),
    _row("GET", "/images/{name}/history", ADMIN, "not offered in this version"),
    _row("POST", "/images/{name}/push", ADMIN, _REGISTRY),
    _row("POST", "/images/{name}/tag", ADMIN, "image names belong to nobody yet; an administrator sets them"),
    _row("GET", "/networks", ADMIN, _NETWORK),
    _row("POST", "/networks/create", ADMIN, _NETWORK),
    _row("POST", "/networks/prune", ADMIN, _NETWORK),
    _row("DELETE", "/networks/{id}", ADMIN, _NETWORK),
    _row("GET", "/networks/{id}", ADMIN, _NETWORK),
    _row("POST", "/networks/{id}/connect", ADMIN, _NETWORK),
    _row("POST", "/networks/{id}/disconnect", ADMIN, _NETWORK),
    _row("GET", "/nodes", REFUSE, _SWARM),
    _row("DELETE", "/nodes/{id}", REFUSE, _SWARM),
    _row("GET", "/nodes/{id}", REFUSE, _SWARM),
    _row("POST", "/nodes/{id}/update", REFUSE, _SWARM),
    _row("GET", "/plugins", REFUSE, _PLUGIN),
    _row("POST", "/plugins/create", REFUSE, _PLUGIN),
    _row("GET", "/plugins/privileges", REFUSE, _PLUGIN),
    _row("POST", "/plugins/pull", REFUSE, _PLUGIN),
    _row("DELETE", "/plugins/{name}", REFUSE, _PLUGIN),
    _row("POST", "/plugins/{name}/disable", REFUSE, _PLUGIN),
    _row("POST", "/plugins/{name}/enable", REFUSE, _PLUGIN),
    _row("GET", "/plugins/{name}/json", REFUSE, _PLUGIN),
    _row("POST", "/plugins/{name}/push", REFUSE, _PLUGIN),
    _row("POST", "/plugins/{name}/set", REFUSE, _PLUGIN),
    _row("POST", "/plugins/{name}/upgrade", REFUSE, _PLUGIN),
    _row("GET", "/secrets", REFUSE, _SWARM),
    _row("POST", "/secrets/create", REFUSE, _SWARM),
    _row("DELETE", "/secrets/{id}", REFUSE, _SWARM),
    _row("GET", "/secrets/{id}", REFUSE, _SWARM),
    _row("POST", "/secrets/{id}/update", REFUSE, _SWARM),
    _row("GET", "/services", REFUSE, _SWARM),
    _row("POST", "/services/create", REFUSE, _SWARM),
    _row("DELETE", "/services/{id}", REFUSE, _SWARM),
    _row("GET", "/services/{id}", REFUSE, _SWARM),
    _row("GET", "/services/{id}/logs", REFUSE, _SWARM),
    _row("POST", "/services/{id}/update", REFUSE, _SWARM),
    _row("POST", "/session", REFUSE, _BUILDKIT, Action.TAKE_OVER),
    _row("GET", "/swarm", REFUSE, _SWARM),
    _row("POST", "/swarm/init", REFUSE, _SWARM),
    _row("POST", "/swarm/join", REFUSE, _SWARM),
    _row("POST", "/swarm/leave", REFUSE, _SWARM),
    _row("POST", "/swarm/unlock", REFUSE, _SWARM),
    _row("GET", "/swarm/unlockkey", REFUSE, _SWARM),
    _row("POST", "/swarm/update", REFUSE, _SWARM),
    _row("GET", "/system/df", ADMIN, _MONITOR),
    _row("GET", "/tasks", REFUSE, _SWARM),
    _row("GET", "/tasks/{id}", REFUSE, _SWARM),
    _row("GET", "/tasks/{id}/logs", REFUSE, _SWARM),
    _row("GET", "/volumes", ADMIN, _VOLUME),
    _row("POST", "/volumes/create", ADMIN, _VOLUME),
    _row("POST", "/volumes/prune", ADMIN, _VOLUME),
    _row("DELETE", "/volumes/{name}", ADMIN, _VOLUME),
    _row("GET", "/volumes/{name}", ADMIN, _VOLUME),
    _row("PUT", "/volumes/{name}", REFUSE, _SWARM),
)

BY_HAND: tuple[Route, ...] = (
    _row("POST", "/grpc", REFUSE, _BUILDKIT, Action.TAKE_OVER),
    _row("POST", "/build/cancel", REFUSE, _BUILDKIT),
    _row("GET", "/containers/{id}/checkpoints", REFUSE, _CHECKPOINT),
    _row("POST", "/containers/{id}/checkpoints", REFUSE, _CHECKPOINT),
    _row("DELETE", "/containers/{id}/checkpoints/{name}", REFUSE, _CHECKPOINT),
    _row("GET", "/containers/ps", REFUSE, "an alias of old clients; use '/containers/json'"),
    _row("POST", "/containers/{id}/copy", REFUSE, _FILES),
    _row("GET", "/debug/vars", REFUSE, "shows the engine's insides"),
    _row("GET", "/debug/pprof/{name}", REFUSE, "shows the engine's insides"),
)

_SPANNING = ("images", "distribution", "plugins")
"""Names of these objects may contain slashes."""


def _index() -> dict[tuple[str, int], list[Route]]:
    found: dict[tuple[str, int], list[Route]] = {}
    for route in sorted((*ROUTES, *BY_HAND), key=lambda row: row.path.count("{")):
        found.setdefault((route.method, len(route.segments)), []).append(route)
    return found


_INDEX = _index()


def match(method: str, target: Target) -> Match | None:
    """The row of a request; None for a route that is not in the table."""
    segments = _joined(target.segments)
    for route in _INDEX.get((method, len(segments)), ()):
        parameters = _parameters(route.segments, segments)
        if parameters is not None:
            return Match(route, parameters)
    return None


def filled(match: Match, **parameters: str) -> tuple[str, ...]:
    """The path of a matched row, with what the client named replaced by `parameters`, ids that we resolved."""
    values = {**match.parameters, **parameters}
    found: list[str] = []
    for segment in match.route.segments:
        found.extend(values[segment[1:-1]].split("/") if segment.startswith("{") else [segment])
    return tuple(found)


def _joined(segments: tuple[str, ...]) -> tuple[str, ...]:
    """An image name with slashes as one segment: images/a/b/json → images, a/b, json."""
    if segments[0] not in _SPANNING or len(segments) <= 3:
        return segments
    return (segments[0], "/".join(segments[1:-1]), segments[-1])


def _parameters(row: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for expected, given in zip(row, segments, strict=True):
        if expected.startswith("{"):
            found[expected[1:-1]] = given
        elif expected != given:
            return None
    return found
