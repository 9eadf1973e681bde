"""What `load` asks the environment for, and what a deployment must give it."""

from typing import Any

from rebreak_idle.config import load
from tests.support.rig import ENCRYPTION_KEY

# What a deployment must set; load() is given these to learn the rest.
REQUIRED = {
    "DATABASE_URL": "postgresql://localhost/test",
    "ADMIN_SECRET": "secret",
    "ENCRYPTION_KEY": ENCRYPTION_KEY,
}


class Asked(dict[str, str]):
    """An environment that notes which variables are asked for, and with which defaults."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.defaults: dict[str, Any] = {}

    def get(self, name: str, default: Any = None) -> Any:
        self.defaults[name] = default
        return super().get(name, default)


def variables() -> dict[str, Any]:
    """Every variable that one may set, with its default, None where it has none that is the same
    everywhere. PM2 sets NODE_APP_INSTANCE.
    """
    asked = Asked(REQUIRED)
    load(asked)
    defaults = asked.defaults | {"INSTANCE_NAME": None}
    del defaults["NODE_APP_INSTANCE"]
    return defaults
