"""Instances for the tests: one that is alone, and several in processes of their own."""

import random
import time

from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.membership import Membership
from rebreak_idle.fleet.table import NoTable
from rebreak_idle.proof import Proof


class MissingTable:
    """Where there is no table `idle_instances`."""

    def beat(self, row: Instance, condemned: object = ()) -> list[Instance]:
        raise NoTable("there is no table idle_instances")

    def leave(self, row: Instance) -> None:
        raise NoTable("there is no table idle_instances")


def alone(proof: Proof) -> Membership:
    """The membership of a daemon without a fleet."""
    return Membership(MissingTable(), "one", 30.0, time.monotonic, random.random, proof)
