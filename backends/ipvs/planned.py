"""What a plan is: steps, what becomes of ServicePorts by them, and how to say it. Pure."""

from backends.ipvs.model import (
    DEVICE,
    TABLE,
    AddressStep,
    IpvsStep,
    Operation,
    Place,
    Rendered,
    Step,
)
from backends.ipvs.words import element_words
from backends.kernel.ipvs_objects import Destination, ServerId
from backends.kernel.nft_node import NodePart
from proxy.addresses import join_host_port
from proxy.model import PortKey


class IpvsPlan:
    """Steps in order, and what ServicePorts and the node occupy once they are done.

    `drains` are destinations that nobody wants and that have weight 0 already; `reaps`: what drains is looked after.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        rendered: dict[PortKey, Rendered | None],
        *,
        drains: tuple[tuple[ServerId, Place], ...] = (),
        reaps: bool = False,
        node: NodePart | None = None,
        layout: object = None,
    ) -> None:
        self.steps = steps
        self.rendered = rendered
        self.drains = drains
        self.reaps = reaps
        self.node = node
        self.layout = layout

    def __bool__(self) -> bool:
        return bool(self.steps or self.drains or self.reaps)

    def describe(self) -> list[str]:
        """Return one line for each operation, in the order in which they are carried out."""
        lines: list[str] = []
        for number, step in enumerate(self.steps, start=1):
            lines += [f"{number} {line}" for line in _describe(step)]
        lines += [f"{server}: {join_host_port(*place)} drains" for server, place in self.drains]
        return lines


def _describe(step: Step) -> list[str]:
    if isinstance(step, IpvsStep):
        return [_operation_words(each) for each in step.operations]
    if isinstance(step, AddressStep):
        return [
            *([f"make device {DEVICE}"] if step.is_device_missing else []),
            *[f"bind {address}{_whose(owner)}" for address, owner in step.bind],
            *[f"unbind {address}{_whose(owner)}" for address, owner in step.unbind],
        ]
    return step.describe(TABLE, element_words)


def _operation_words(operation: Operation) -> str:
    spec = operation.spec
    what = ""
    if isinstance(spec, Destination):
        what = f" {spec} weight {spec.weight}"
    elif spec is not None:
        what = f" {spec.scheduler}"
    return f"{operation.verb} {operation.server}{what}{_whose(operation.owner)}"


def _whose(owner: PortKey | None) -> str:
    return f"  # {owner}" if owner is not None else ""
