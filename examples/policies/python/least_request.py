"""my_policy: the endpoint with the fewest calls in flight among a few chosen at random.

Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.
"""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.balancer import (
    Context,
    Decision,
    Decision_Either,
    Decision_Endpoint,
    Plan,
    Plan_EachRequest,
    Plan_Rotation,
)
from wit_world.imports import load, request
from wit_world.imports.types import ConfigField, Description, Endpoint, Scope

from config import read_integer


def scale(random: int, below: int) -> int:
    """A number below `below`, of a uniform random number of 32 bits."""
    return random * below >> 32


class Balancer(exports.Balancer):
    # What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to look at. On the class,
    # because the host's calls go to objects of it that need not be the same.
    receiving: list[int] = []
    choices = 2

    def describe(self) -> Description:
        return Description(
            name="my_policy",
            version="0.1.0",
            summary="The endpoint with the fewest calls in flight among a few chosen at random.",
            fields=[
                ConfigField(
                    name="choices",
                    default="2",
                    doc="how many endpoints are compared for each request, 2 to 10",
                )
            ],
            warning="",
        )

    def build(self, config: str, scope: Scope, endpoints: list[Endpoint]) -> Plan:
        try:
            Balancer.choices = read_integer(config, "choices", 2, 10, default=2)
        except ValueError as error:
            raise Err(str(error)) from None
        # A weight of 0 means: send it nothing.
        Balancer.receiving = [index for index, endpoint in enumerate(endpoints) if endpoint.weight > 0]
        # Nobody to choose from: an empty plan lets the host say why.
        return Plan_EachRequest() if Balancer.receiving else Plan_Rotation([])

    def pick(self, context: Context) -> Decision:
        receiving = Balancer.receiving
        n = len(receiving)
        # Places at equal distances: two of them are any pair.
        first = scale(context.random[0], n)
        step = 1 + scale(context.random[1], n - 1) if n > 1 else 0
        chosen: list[int] = []
        for nth in range(min(Balancer.choices, n)):
            # Whoever was chosen already, or failed this same request, is passed over for the next.
            for offset in range(n):
                endpoint = receiving[(first + nth * step + offset) % n]
                if endpoint in chosen or (context.attempt > 0 and request.tried(endpoint)):
                    continue
                chosen.append(endpoint)
                break
        if len(chosen) < 2:
            # Where everything was tried, a second try is better than none.
            return Decision_Endpoint(chosen[0] if chosen else receiving[first])
        if len(chosen) > 2:
            chosen.sort(key=load.in_flight)  # Stable: among equals the first drawn.
        return Decision_Either((chosen[0], chosen[1]))
