"""Changes of the rows."""

from __future__ import annotations

import secrets

from scripts.tools.soak.accounts import Account, ScriptedAccount
from scripts.tools.soak.world import World
from tests.support.rig import stored


class Rows:
    """Changes of the rows, as users make them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng

    def _update(self, account: Account, column: str, value: object) -> None:
        statement = f"UPDATE mail_connections SET {column} = %s WHERE id = %s"  # noqa: S608
        self._world.database.execute(statement, value, account.id)

    def change_one(self) -> None:
        """Deactivate, delete, activate, insert or alter a row."""
        account = self._rng.choice(self._world.accounts)
        if not account.active:
            self.activate(account)
            return
        choices = (self._deactivate, self._delete, self._seal_anew, self._move, self._new_password)
        change = self._rng.choice(choices)
        change(account)
        name = change.__name__.strip("_").replace("_", " ")
        self._world.chronicle.count(f"row: {name}", account.email)

    def activate(self, account: Account) -> None:
        """Bring the row back, whether it is inactive or gone."""
        account.do_not_measure()
        self._world.chronicle.count("row: activate", account.email)
        if account.id:
            self._update(account, "is_active", True)
            account.active = True
        else:
            self._world.insert_row(account)

    def _deactivate(self, account: Account) -> None:
        account.active = False
        self._update(account, "is_active", False)
        account.do_not_measure()

    def _delete(self, account: Account) -> None:
        account.active = False
        self._world.database.execute("DELETE FROM mail_connections WHERE id = %s", account.id)
        del self._world.scans.by_id[account.id]
        account.id = ""
        account.do_not_measure()

    def _seal_anew(self, account: Account) -> None:
        self._update(account, "password_encrypted", stored(account.password))

    def _move(self, account: Account) -> None:
        self._update(account, "imap_host", self._rng.choice(("localhost", "127.0.0.1")))

    def _new_password(self, account: Account) -> None:
        if isinstance(account, ScriptedAccount):
            account.password = secrets.token_hex(8)
            account.site.set_password(account)
        self._seal_anew(account)
