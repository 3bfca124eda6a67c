"""Changes of one key or one server in the text of servers.yaml: everything else stays as it is, comments included.

1. The text is parsed to a tree of nodes with their positions in it.
2. Text is cut out and inserted at these positions.  New parts are in flow style, `{name: a, url: "http://b"}`, or in
   JSON where the keys beside them are in double quotes, so that a JSON file remains JSON.
3. The caller parses the new text and compares the result: with aliases and merge keys, a change in one place of the
   text can change others.

Texts of a change are literal: `${` in them is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import yaml

from twisted_lb.config.pool import ONLY_POOL
from twisted_lb.config.servers_specs import name_from_url

_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BOM: Final = "\ufeff"
_ALIAS: Final = re.compile(r"[ :]*\*[^ ,\]}\r\n]+")
# Words that need no quotes; every YAML parser reads them as text, except those of _OTHER_TYPES.
_PLAIN: Final = re.compile(r"[a-z][a-z_]*[0-9]*")
_OTHER_TYPES: Final = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


class NotEditable(Exception):
    """The file is written in a way that does not allow this change; the text of the error says why."""


class LimitPlace(NamedTuple):
    """Where a limit is: its place among those of a route, by its place too, of a pool, or of all routes."""

    kind: str  # "route", "pool" or "all"
    route: int
    pool: str
    place: int


class Edit(NamedTuple):
    """One change: of a server, or of a pool where `server` is empty, or of the limit in `limit`.

    `keys` are set, or removed where their value is None; with `new`, they are those of a new server.  Where `keys` is
    None, the server is removed.
    """

    pool: str
    server: str
    keys: Mapping[str, Any] | None
    new: bool = False
    limit: LimitPlace | None = None


def edited(text: str, edit: Edit, replaced: Callable[[str], str] = str) -> str:
    """The text with the change.  Raises NotEditable.

    `replaced` returns a text of the file with its references replaced, for names that are made of them.
    """
    if text.startswith(BOM):
        # The parser's positions do not include it.
        return BOM + edited(text.removeprefix(BOM), edit, replaced)
    if edit.limit is not None:
        return _with_keys(text, _limit(_tree(text), edit.limit), edit.keys or {})
    pool = _pool(_tree(text), edit.pool)
    if not edit.server:
        return _with_keys(text, pool, edit.keys or {})
    servers = _value(pool, "servers")
    if servers is None and edit.new:
        # The pool may have its servers from a list.
        return _with_keys(text, pool, {"servers": [edit.keys]})
    if not isinstance(servers, yaml.SequenceNode) or not servers.value:
        raise NotEditable(f"the servers of the pool {edit.pool} are not a list here")
    if edit.new:
        return _with_item(text, servers, edit.keys or {})
    for index, server in enumerate(servers.value):
        if isinstance(server, yaml.MappingNode) and _name(server, replaced) == edit.server:
            if edit.keys is None:
                if len(servers.value) == 1:
                    # A list must not be empty; the pool has others.
                    return _with_keys(text, pool, {"servers": None})
                return _without_item(text, servers, index)
            return _with_keys(text, server, edit.keys)
    raise NotEditable(f"the server {edit.server} is not in its list of servers")


def _tree(text: str) -> yaml.Node:
    loader = _FAST(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    if node is None:
        raise NotEditable("it is empty")
    return node


def _pool(root: yaml.Node, name: str) -> yaml.MappingNode:
    pools = _value(root, "pools")
    pool = root if pools is None and name == ONLY_POOL else _value(pools, name)
    if not isinstance(pool, yaml.MappingNode):
        raise NotEditable(f"the pool {name} is not a mapping here")
    return pool


def _limit(root: yaml.Node, limit: LimitPlace) -> yaml.MappingNode:
    if limit.kind == "all":
        limits = _value(root, "global_limits")
    elif limit.kind == "route":
        limits = _value(_item(_value(root, "routes"), limit.route), "limits")
    else:
        # Those at the top are the limits of pools without any of their own.
        limits = _value(_pool(root, limit.pool), "limits") or _value(root, "limits")
    found = _item(limits, limit.place)
    if not isinstance(found, yaml.MappingNode):
        raise NotEditable("the limit is not a mapping in a list here")
    return found


def _item(items: yaml.Node | None, place: int) -> yaml.Node | None:
    values = items.value if isinstance(items, yaml.SequenceNode) else ()
    return values[place] if place < len(values) else None


def _value(mapping: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = mapping.value if isinstance(mapping, yaml.MappingNode) else ()
    found: yaml.Node | None = next((value for one, value in pairs if one.value == key), None)
    return found


def _name(server: yaml.MappingNode, replaced: Callable[[str], str]) -> str:
    """The name of a server, by default made from its URL."""
    name, url = (_value(server, key) for key in ("name", "url"))
    if isinstance(name, yaml.ScalarNode) and name.value:
        return str(replaced(name.value))
    return name_from_url(replaced(url.value)) if isinstance(url, yaml.ScalarNode) else ""


# Keys of a mapping


def _with_keys(text: str, mapping: yaml.MappingNode, keys: Mapping[str, Any]) -> str:
    """The text with these keys of the mapping set, or removed."""
    changes: list[tuple[int, int, str]] = []
    added: dict[str, Any] = {}
    names = [one.value for one, _ in mapping.value]
    quoted = _has_quoted_keys(mapping)
    for key, value in keys.items():
        if key not in names:
            if value is not None:
                added[key] = value
            continue
        index = names.index(key)
        if value is None:
            changes.append((*_pair_to_cut(text, mapping, index), ""))
        else:
            name, node = mapping.value[index]
            start = name.end_mark.index
            changes.append((start, _end(text, node, start), f": {rendered(value, quoted)}"))
    if added:
        changes.append(_addition(text, mapping, added))
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _addition(text: str, mapping: yaml.MappingNode, keys: Mapping[str, Any]) -> tuple[int, int, str]:
    """Where these keys are written: before the servers of a pool, and after the last key of a server."""
    if not mapping.value:
        raise NotEditable("a mapping is empty")
    quoted = _has_quoted_keys(mapping)
    pairs = [f"{json.dumps(key) if quoted else key}: {rendered(value, quoted)}" for key, value in keys.items()]
    names = [one.value for one, _ in mapping.value]
    indent = "\n" + " " * mapping.value[0][0].start_mark.column
    if "servers" in names:
        start = mapping.value[names.index("servers")][0].start_mark.index
        separator = ", " if mapping.flow_style else indent
        return start, start, "".join(pair + separator for pair in pairs)
    last_key, last_value = mapping.value[-1]
    end = _end(text, last_value, last_key.end_mark.index)
    if mapping.flow_style:
        return end, end, "".join(f", {pair}" for pair in pairs)
    end = _line_end(text, end)
    return end, end, "".join(indent + pair for pair in pairs)


def _has_quoted_keys(node: yaml.Node) -> bool:
    """Whether keys are in double quotes, as in JSON."""
    return isinstance(node, yaml.MappingNode) and bool(node.value) and node.value[0][0].style == '"'


def _pair_to_cut(text: str, mapping: yaml.MappingNode, index: int) -> tuple[int, int]:
    """The range of text to cut out to remove a pair."""
    pairs = [(key.start_mark.index, _end(text, value, key.end_mark.index)) for key, value in mapping.value]
    if mapping.flow_style:
        return _flow_cut(text, pairs, index)
    start, end = pairs[index]
    line = text.rfind("\n", 0, start) + 1
    if len(pairs) == 1:
        raise NotEditable(f"the key {mapping.value[index][0].value} is the only one of its mapping")
    if text[line:start].strip():
        # In the line of the dash: the next key takes its place, or its comment does.
        if index:
            raise NotEditable(f"the key {mapping.value[index][0].value} does not stand in a line of its own")
        between = text[end : pairs[1][0]]
        return start, end + between.index("#") if "#" in between else pairs[1][0]
    return line, min(_line_end(text, end) + 1, len(text))


# Items of a list


def _with_item(text: str, items: yaml.SequenceNode, keys: Mapping[str, Any]) -> str:
    """The text with a mapping of these keys after the last item."""
    last = items.value[-1]
    end = _end(text, last, _item_start(text, items, len(items.value) - 1))
    new = rendered(keys, _has_quoted_keys(last))
    if items.flow_style:
        return f"{text[:end]}, {new}{text[end:]}"
    end = _line_end(text, end)
    # Not the column of the list, which may begin with an anchor or a tag in another line.
    dash = _dash(text, last.start_mark.index)
    column = dash - text.rfind("\n", 0, dash) - 1
    return f"{text[:end]}\n{' ' * column}- {new}{text[end:]}"


def _without_item(text: str, items: yaml.SequenceNode, index: int) -> str:
    """The text without an item; comments before it stay."""
    places = []
    for number, item in enumerate(items.value):
        start = _item_start(text, items, number)
        places.append((start, _end(text, item, start)))
    if items.flow_style:
        start, end = _flow_cut(text, places, index)
        return text[:start] + text[end:]
    start, end = places[index]
    line = text.rfind("\n", 0, _dash(text, start)) + 1
    return text[:line] + text[_line_end(text, end) + 1 :]


def _item_start(text: str, items: yaml.SequenceNode, index: int) -> int:
    """Where an item begins.  The node of an alias has the position of its anchor."""
    start: int = items.value[index].start_mark.index
    if not items.start_mark.index <= start < items.end_mark.index:
        raise NotEditable("a server in the list is an alias")
    return start


def _dash(text: str, start: int) -> int:
    """The place of the dash of an item of a block list, perhaps in a line before it, with comments between them."""
    line = text.rfind("\n", 0, start) + 1
    before = text[line:start].lstrip(" ")
    while not before.startswith("-"):
        if not line or before.strip() and not before.startswith("#"):
            raise NotEditable("an item of a list stands where it is not expected")
        end, line = line - 1, text.rfind("\n", 0, line - 1) + 1
        before = text[line:end].lstrip(" ")
    return text.index("-", line)


def _flow_cut(text: str, places: list[tuple[int, int]], index: int) -> tuple[int, int]:
    """An item of a flow collection with one of the commas beside it; comments of other lines stay."""
    start, end = places[index]
    last = index + 1 == len(places)
    before = text[places[index - 1][1] : start] if index else ""
    after = text[end : _line_end(text, end) if last else places[index + 1][0]]
    comma = after.lstrip().startswith(",")
    if "#" in before or "#" in after and comma:
        return _flow_cut_beside_comments(text, start, text.index(",", end) + 1 if comma else end, last or comma)
    if index:
        return places[index - 1][1], end
    return start, end if last else places[1][0]


def _flow_cut_beside_comments(text: str, start: int, end: int, complete: bool) -> tuple[int, int]:
    """Of an item with the comma after it, or without one: after the last item the comma before it may stay."""
    if not complete:
        raise NotEditable("a comment stands between an item and its comma")
    line, line_end = text.rfind("\n", 0, start) + 1, _line_end(text, end)
    rest = text[end:line_end].strip()
    if text[line:start].strip() or rest and not rest.startswith("#"):
        return start, end
    return line, min(line_end + 1, len(text))


# Places


def _end(text: str, node: yaml.Node, after: int) -> int:
    """Where a node ends, without the comments after it; it is looked for from `after`."""
    if node.start_mark.index < after:
        alias = _ALIAS.match(text, after)
        if alias is None:
            raise NotEditable("an alias stands on a line of its own")
        return alias.end()
    if node.value and isinstance(node, yaml.CollectionNode) and not node.flow_style:
        if isinstance(node, yaml.MappingNode):
            key, value = node.value[-1]
            return _end(text, value, key.end_mark.index)
        return _end(text, node.value[-1], node.start_mark.index)
    end: int = node.end_mark.index
    # The mark of a block scalar is after its line end.
    return end - 1 if end > node.start_mark.index and text[end - 1 : end] == "\n" else end


def _line_end(text: str, place: int) -> int:
    """The end of the line at `place`, without its line end."""
    end = text.find("\n", place)
    return len(text) if end < 0 else end


def rendered(value: Any, quoted: bool = False) -> str:
    """A value as YAML on one line; `quoted`: as JSON, too."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{rendered(key, quoted)}: {rendered(one, quoted)}' for key, one in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join([rendered(one, quoted) for one in value])}]"
    if isinstance(value, str):
        if not quoted and _PLAIN.fullmatch(value) and value not in _OTHER_TYPES:
            return value
        return json.dumps(value.replace("${", "$${"))
    return json.dumps(value)
