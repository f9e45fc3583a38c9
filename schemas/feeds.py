"""Every feed there is, by name."""

from schemas.traffic import TRAFFIC

FEEDS = {feed.name: feed for feed in (TRAFFIC,)}
