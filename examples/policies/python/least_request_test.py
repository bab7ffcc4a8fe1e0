import unittest
from unittest import mock

import policy
from policy import Balancer
from wit_world.exports.balancer import Context, Decision_Either, Decision_Endpoint, Plan_EachRequest, Plan_Rotation
from wit_world.imports.types import Endpoint, Scope


def build(config: str, weights: list[int]):
    endpoints = [Endpoint(id="", address="", zone="", weight=weight, metadata=[]) for weight in weights]
    return Balancer().build(config, Scope(service="svc", zone=""), endpoints)


def pick(random: tuple[int, int], attempt: int = 0):
    return Balancer().pick(Context(sequence=0, random=random, hash=None, attempt=attempt))


class LeastRequestTest(unittest.TestCase):
    def test_two_are_drawn_and_the_host_compares_them(self):
        self.assertEqual(build("{}", [1] * 4), Plan_EachRequest())
        self.assertEqual(pick((0, 2**32 - 1)), Decision_Either((0, 3)))

    def test_of_more_the_two_least_busy_are_left(self):
        build('{"choices": 4}', [1] * 4)
        with mock.patch.object(policy.load, "in_flight", [9, 1, 7, 0].__getitem__):
            self.assertEqual(pick((1 << 30, 5)), Decision_Either((3, 1)))

    def test_a_further_attempt_goes_elsewhere_while_there_is_anybody(self):
        build("{}", [1, 0, 1])
        for tried, endpoint in (({0}, 2), ({0, 2}, 0)):
            with mock.patch.object(policy.request, "tried", tried.__contains__):
                self.assertEqual(pick((0, 0), attempt=1), Decision_Endpoint(endpoint))

    def test_nobody_is_an_empty_plan(self):
        self.assertEqual(build("{}", [0]), Plan_Rotation([]))
