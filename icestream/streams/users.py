"""The users of Redis (users.acl), as its ACL file has them."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

# Nobody can be this user; but Redis 7.0 reads its append-only file with its rights, and leaves out what they do not cover.
DEFAULT = "user default off ~* &* +@all"


def user_names() -> list[str]:
    """The names of all users."""
    return [line.split()[1] for line in _lines()]


def acl_file(passwords: Mapping[str, str]) -> str:
    """The ACL file for a server whose users have these passwords; a user without one cannot log in."""
    lines = [DEFAULT]
    for line in _lines():
        user, name, rules = line.split(maxsplit=2)
        password = f"on #{hashlib.sha256(passwords[name].encode()).hexdigest()}" if name in passwords else "off"
        lines.append(f"{user} {name} {password} {rules}")
    return "".join(f"{line}\n" for line in lines)


def _lines() -> list[str]:
    text = files(__package__).joinpath("users.acl").read_text().replace("\n ", " ")
    return [line for line in text.splitlines() if line.startswith("user ")]
