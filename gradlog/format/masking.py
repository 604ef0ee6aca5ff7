"""Tokens and passwords in command lines, replaced before they are stored or shown.

A value is secret by its name (``--api-key=...``, ``HUB_TOKEN=...``), by its place in a URL (``user:...@host``), or by
its own form, which the providers of tokens choose so that scanners find them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

MASK = "***"

_SECRET_ENDS = ("token", "secret", "password", "passwd", "passphrase", "key", "credential", "signature")
_SECRET_WORDS = frozenset(
    ("auth", "authorization", "bearer", "cookie", "dsn", "jwt", "pass", "pat", "pw", "pwd", "sig")
)
_PLURALS = ("keys", "secrets", "passwords", "credentials")

# Every repetition that may fail late is bounded: the words may come from a stranger's store.
_FLAG = re.compile(r"--?(?P<name>[A-Za-z_][\w.-]{0,99})")
_WHOLE = re.compile(r"(?P<before>(?:--?|\++)?(?P<name>[A-Za-z_][\w.-]{0,99})=).*", re.DOTALL)
_NAMED = re.compile(r"(?<![\w.])(?P<name>[A-Za-z_][\w.-]{0,99})[\"']?\s{0,9}[=:]\s{0,9}")
_VALUE = re.compile(r"(?!//|\*{3})(?:\"[^\"]{0,999}\"|'[^']{0,999}'|[^\s,;&}]+)")
_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|rpa|r8|gsk|nvapi|npm|pypi|dckr_pat|ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[abeprs]|xapp|SG|sk|pk|rk|whsec"
    r"|lin_api|dop_v1|shpat|wandb_v1|ya29)[_.-](?=[\w.-]{0,99}[A-Z0-9])[\w-][\w.-]{7,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"  # access keys of Amazon
    r"|AIza[\w-]{20,}"  # keys of Google
    r"|eyJ[\w-]{8,200}\.[\w.-]{8,}"  # JSON web tokens
    r")"
)
_SCHEME = r"(?P<before>(?<![\w+.-])[A-Za-z][\w+.-]{0,30}://"
_LOGIN = re.compile(rf"{_SCHEME}[^\s/:@]{{0,200}}:)[^\s/]{{1,200}}(?=@)")
_LONE_LOGIN = re.compile(rf"{_SCHEME})[^\s/:@]{{20,200}}(?=@)")
_BEARER = re.compile(r"(?P<before>\b(?:bearer|basic)\s{1,9})[\w.~+/=-]{6,}", re.IGNORECASE)


def command_line(argv: Sequence[str]) -> list[str]:
    """Command line without its secrets; everything else stays as it is.

    >>> command_line(["train.py", "--hub_token", "abc", "--api-key=abc", "HF_TOKEN=abc", "--max-tokens", "100"])
    ['train.py', '--hub_token', '***', '--api-key=***', 'HF_TOKEN=***', '--max-tokens', '100']
    """
    shown = []
    following = ""  # "one": the next value is secret; "all": every value up to the next flag is
    for word in map(str, argv):
        flag = _FLAG.fullmatch(word)
        if following and not flag:
            shown.append(MASK)
            following = following if following == "all" else ""
            continue
        following = _follows(flag["name"]) if flag else ""
        shown.append(_whole(word))
    return shown


def text(words: str) -> str:
    """Text without the secrets that show by their form, their place in a URL, or a name before them.

    >>> text("s3://key:abc@host/bucket?token=abc&part=2")
    's3://key:***@host/bucket?token=***&part=2'
    """
    for pattern in (_LOGIN, _LONE_LOGIN, _BEARER):
        words = pattern.sub(rf"\g<before>{MASK}", words)
    return _FORMS.sub(MASK, _values(words))


def origin(provenance: Mapping[str, object]) -> dict[str, object]:
    """Provenance as it may be shown, also if a recorder without masking wrote it."""
    argv = provenance.get("argv")
    return {**_entries(provenance, 50), **({"argv": command_line(argv)} if isinstance(argv, list) else {})}


def facts(value: object, depth: int = 50) -> object:
    """Nested facts without the texts that are secret by their key or their form.

    >>> facts({"batch": 8, "hub_token": "abc", "at": ["https://me:abc@host"]})
    {'batch': 8, 'hub_token': '***', 'at': ['https://me:***@host']}
    """
    if not depth:
        return "..."
    if isinstance(value, Mapping):
        return _entries(value, depth)
    if isinstance(value, (list, tuple)):
        return [facts(v, depth - 1) for v in value]
    return text(value) if isinstance(value, str) else value


def _entries(facts_by_name: Mapping[str, object], depth: int) -> dict[str, object]:
    secret = {k for k, v in facts_by_name.items() if isinstance(v, str) and v and is_secret(str(k))}
    return {k: MASK if k in secret else facts(v, depth - 1) for k, v in facts_by_name.items()}


def is_secret(name: str) -> bool:
    """Whether a flag, variable or key of this name holds a secret: its last word says so.

    >>> [n for n in ("hub_token", "wandbApiKey", "db.password", "tokenizer", "max_tokens") if is_secret(n)]
    ['hub_token', 'wandbApiKey', 'db.password']
    """
    words = list(_words(name))
    last = words[-1] if words else ""
    return last.endswith(_SECRET_ENDS) or last in _SECRET_WORDS or last in _PLURALS


def _follows(flag: str) -> str:
    if not is_secret(flag):
        return ""
    return "all" if list(_words(flag))[-1] in _PLURALS else "one"


def _words(name: str) -> Iterator[str]:
    for part in re.split(r"[\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)):
        if part:
            yield part.lower()


def _whole(word: str) -> str:
    """Mask one argument; ``name=value`` ends where the argument ends, spaces and all."""
    match = _WHOLE.fullmatch(word)
    return match["before"] + MASK if match and is_secret(match["name"]) else text(word)


def _values(words: str) -> str:
    """Mask the values of secret names: ``name=value``, ``name: value``, in quotes or not."""
    shown, place = [], 0
    while (named := _NAMED.search(words, place)) is not None:
        value = _VALUE.match(words, named.end()) if is_secret(named["name"]) else None
        shown += [words[place : named.end()], MASK if value else ""]
        place = value.end() if value else named.end()
    return "".join([*shown, words[place:]])
