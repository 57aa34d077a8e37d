"""Networks of any size, made up: sites at coordinates, round trips by distance. Pure; all chance from a seed.

After the way of network coordinates with heights (Dabek, Cox, Kaashoek, Morris: Vivaldi, SIGCOMM 2004): the round
trip between two sites is their distance in a plane plus what each needs to reach the core. Entry point: ``plane``.
"""

from __future__ import annotations

import math
import random

from .network import Network

HOSTS_PER_SITE = 50
MAX_SITES = 1500  # planning looks at every pair of sites
REGIONS = 5  # continents, more or less
WORLD_S = 0.150  # side of the square in which regions lie
REGION_S = 0.012  # standard deviation of a region's sites around its middle
ACCESS_S = 0.004  # mean of what a site needs to reach the core; exponential
WITHIN_S = 0.0005  # within a site


def plane(host_count: int, seed: int) -> Network:
    """Sites of HOSTS_PER_SITE hosts on average (more when that makes too many), the controller at one more."""
    pick = random.Random(seed)
    site_count = max(1, min(MAX_SITES, -(-host_count // HOSTS_PER_SITE)))
    middles = [(pick.uniform(0, WORLD_S), pick.uniform(0, WORLD_S)) for _ in range(REGIONS)]
    places = []
    for _ in range(site_count + 1):
        x, y = pick.choice(middles)
        places.append((pick.gauss(x, REGION_S), pick.gauss(y, REGION_S), pick.expovariate(1 / ACCESS_S)))
    clusters = [pick.randrange(site_count) for _ in range(host_count)]

    def rtt_s(a: int, b: int) -> float:
        if a == b:
            return WITHIN_S
        ax, ay, a_access_s = places[a]
        bx, by, b_access_s = places[b]
        return math.hypot(ax - bx, ay - by) + (a_access_s + b_access_s)  # equal in both directions to the last bit

    note = f"round trips made up: {site_count} sites in a plane, seed {seed}"
    return Network(clusters, rtt_s, site_count, [f"site{cluster}" for cluster in clusters], note)
