"""Old name of `filters.base`, kept for one release for users' own modules."""

from filters.base import *  # noqa: F403
