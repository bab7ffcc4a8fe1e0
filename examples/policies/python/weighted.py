"""my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.

A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
what `build` answers and walks it for ever; every change of the endpoints is a new `build` in a fresh instance.
"""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.balancer import Context, Decision, Decision_Queue, Plan, Plan_Rotation
from wit_world.imports.types import ConfigField, Description, Endpoint, Scope

from config import read_integer

# A plan has at most so many entries, unless there are more endpoints than that.
MAX_TURNS = 16384


class Balancer(exports.Balancer):
    def describe(self) -> Description:
        return Description(
            name="my_policy",
            version="0.1.0",
            summary="In turn by weight; endpoints of the own zone count several times.",
            fields=[
                ConfigField(
                    name="zone_factor",
                    default="4",
                    doc="how many times its weight an endpoint of the node's own zone counts, 1 to 100",
                )
            ],
            warning="",
        )

    def build(self, config: str, scope: Scope, endpoints: list[Endpoint]) -> Plan:
        try:
            zone_factor = read_integer(config, "zone_factor", 1, 100, default=4)
        except ValueError as error:
            raise Err(str(error)) from None

        # A weight of 0 means: send it nothing.
        receiving = [index for index, endpoint in enumerate(endpoints) if endpoint.weight > 0]

        def share(endpoint: Endpoint) -> int:
            is_home = scope.zone != "" and endpoint.zone == scope.zone
            return endpoint.weight * (zone_factor if is_home else 1)

        # Halved until the round is short enough, so that nobody falls to nothing.
        shares = [share(endpoints[index]) for index in receiving]
        while sum(shares) > max(MAX_TURNS, len(shares)):
            shares = [(share + 1) // 2 for share in shares]

        # The turns of each are spread evenly over the round, and the endpoints begin one after the other.
        n = len(shares)
        turns = [
            ((2 * n * k + 2 * i + 1) / share, index)
            for i, (index, share) in enumerate(zip(receiving, shares))
            for k in range(share)
        ]
        turns.sort()
        return Plan_Rotation([index for _, index in turns])

    def pick(self, context: Context) -> Decision:
        """Never called: `build` answers a plan."""
        return Decision_Queue()
