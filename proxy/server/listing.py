"""The list of services as somebody asks for it: searched, filtered, sorted, page by page. Pure."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

from proxy.addresses import parse_ip
from proxy.desired import frontends_of
from proxy.explain import Document
from proxy.server.overview import Overview, Row, in_order
from proxy.server.states import STATES, State, frontend_words

Sort = Literal["name", "state", "endpoints", "ready", "used"]
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
MOST_ROWS: Final = 1000
ROWS: Final = 100

_KEYS: Final[Mapping[Sort, Callable[[Row], Any]]] = {
    # stable: rows come sorted by name, and equals stay so
    "state": lambda row: STATES.index(row.state),
    "endpoints": lambda row: -row.counts.endpoints,
    "ready": lambda row: row.counts.ready - row.counts.endpoints,
    "used": lambda row: -row.counts.used,
}


class ParameterError(ValueError):
    """A parameter of a request is none we know what to do with; the text names it and what it may be."""


class Query(NamedTuple):
    """What is asked for. `q` is a part of a namespace/name, or a whole address; an empty `state` means every."""

    q: str = ""
    state: State | Literal[""] = ""
    sort: Sort = "name"
    page: int = 1
    limit: int = ROWS

    @property
    def parameters(self) -> dict[str, str]:
        """What of it is not as it is anyway, for a link."""
        usual = Query()
        return {
            name: str(value)
            for name, value in self._asdict().items()
            if value != getattr(usual, name)
        }


class ServiceRow(Document, frozen=True, kw_only=True):
    """One line of the list. Endpoints are counted by address; `used` are those this node sends to."""

    namespace: str
    name: str
    state: State
    why: str
    frontends: tuple[str, ...]
    endpoints: int
    ready: int
    used: int


class Services(Document, frozen=True, kw_only=True):
    """One page of the list. `states` counts all services, `matched` those that were asked for."""

    total: int
    matched: int
    page: int
    pages: int
    limit: int
    states: dict[State, int]
    services: tuple[ServiceRow, ...]


def parse_query(parameters: Mapping[str, str]) -> Query:
    """Read the parameters of a request. Raises ParameterError, naming the parameter and what it may be."""
    state, sort = parameters.get("state", ""), parameters.get("sort", "") or "name"
    if state and state not in STATES:
        raise ParameterError(f"state: one of {', '.join(STATES)}")
    if sort not in SORTS:
        raise ParameterError(f"sort: one of {', '.join(SORTS)}")
    return Query(
        q=parameters.get("q", "").strip(),
        state=state,
        sort=sort,
        page=number(parameters, "page", 1, 10**6),
        limit=number(parameters, "limit", ROWS, MOST_ROWS),
    )


def number(parameters: Mapping[str, str], name: str, usual: int, most: int) -> int:
    """Return a number from 1 to `most`. Raises ParameterError naming the parameter."""
    text = parameters.get(name, "") or str(usual)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise ParameterError(f"{name}: a number from 1 to {most}")
    return int(text)


def listing(overview: Overview, query: Query) -> Generator[None, None, Services]:
    """Return one page, in steps. A page beyond the last is the last."""
    yield from overview.refresh()
    rows, states, total = overview.rows, overview.states, len(overview.rows)
    if query.q or query.state:
        matches = _matcher(query)
        matched: list[Row] = []
        for row in rows:
            if matches(row):
                matched.append(row)
            yield
        rows = matched
    pages = max(1, -(-len(rows) // query.limit))
    page = min(query.page, pages)
    first = (page - 1) * query.limit
    shown = rows[first : first + query.limit]
    if query.sort != "name":
        ordered: list[Row] = []
        for place in in_order(rows, _KEYS[query.sort]):
            if place is not None:
                ordered.append(place)
            if len(ordered) >= first + query.limit:
                break
            yield
        shown = ordered[first:]
    listed: list[ServiceRow] = []
    for row in shown:
        listed.append(_row(row, overview))
        yield
    return Services(
        total=total,
        matched=len(rows),
        page=page,
        pages=pages,
        limit=query.limit,
        states=states,
        services=tuple(listed),
    )


def _matcher(query: Query) -> Callable[[Row], bool]:
    wanted, address = query.q.lower(), parse_ip(query.q)

    def matches(row: Row) -> bool:
        if query.state and row.state != query.state:
            return False
        if address is None:
            return wanted in f"{row.name.namespace}/{row.name.name}".lower()
        return row.has_address(address.text)

    return matches


def _row(row: Row, overview: Overview) -> ServiceRow:
    found = overview.findings(row)
    return ServiceRow(
        namespace=row.name.namespace,
        name=row.name.name,
        state=row.state,
        why=found[0].text if found else "",
        frontends=tuple(
            [frontend_words(f) for port in row.service.ports for f in frontends_of(port)]
        ),
        endpoints=row.counts.endpoints,
        ready=row.counts.ready,
        used=row.counts.used,
    )
