"""What can be set: of one replica, and of a project."""

from rung.settings.cache import CachePlace as CachePlace
from rung.settings.cache import cache_place as cache_place
from rung.settings.cache import parse_size as parse_size
from rung.settings.oidc import OidcSettings as OidcSettings
from rung.settings.oidc import check_url as check_url
from rung.settings.project import ProjectSettings as ProjectSettings
from rung.settings.replica import DoorSettings as DoorSettings
from rung.settings.replica import Platform as Platform
from rung.settings.replica import ServeSettings as ServeSettings
from rung.settings.replica import load as load
from rung.settings.replica import platform as platform
