"""Every feed there is, by name."""

from schemas.air_quality import AIR_QUALITY
from schemas.detections import DETECTIONS
from schemas.traffic import TRAFFIC

FEEDS = {feed.name: feed for feed in (TRAFFIC, DETECTIONS, AIR_QUALITY)}
