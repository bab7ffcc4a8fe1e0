import unittest

from componentize_py_types import Err
from policy import Balancer
from wit_world.imports.types import Endpoint, Scope


def endpoint(zone: str, weight: int) -> Endpoint:
    return Endpoint(id="", address="", zone=zone, weight=weight, metadata=[])


def rotation(config: str, zone: str, endpoints: list[Endpoint]) -> list[int]:
    return Balancer().build(config, Scope(service="svc", zone=zone), endpoints).value


class WeightedTest(unittest.TestCase):
    def test_turns_follow_the_weights_and_are_spread_out(self):
        self.assertEqual(rotation("{}", "", [endpoint("", weight) for weight in (2, 1, 1, 0)]), [0, 1, 0, 2])
        self.assertEqual(rotation("{}", "", []), [])

    def test_the_own_zone_counts_as_often_as_is_configured(self):
        endpoints = [endpoint("here", 1), endpoint("there", 1)]
        self.assertEqual(rotation('{"zone_factor": 3}', "here", endpoints), [0, 0, 0, 1])
        self.assertEqual(rotation('{"zone_factor": 3}', "", endpoints), [0, 1])

    def test_a_bad_configuration_is_refused_by_the_name_of_its_field(self):
        for config, message in (
            ('{"zone_factor": 0}', "`zone_factor` must be a whole number from 1 to 100, not 0"),
            ('{"zone_factor": true}', "`zone_factor` must be a whole number from 1 to 100, not true"),
            ('{"zone": 1}', "unknown field `zone`; there is `zone_factor`"),
            ("[]", 'the configuration must be an object like {"zone_factor": 4}'),
        ):
            with self.assertRaises(Err) as refused:
                rotation(config, "", [])
            self.assertEqual(refused.exception.value, message)
