"""The policy shown in docs/audit.md is read as it stands, and every limit in it is a figure that an audit has."""

from __future__ import annotations

import re
from pathlib import Path

from pellucid.audit.policy import Policy, read_policy
from pellucid.audit.zones import zone

PAGE = Path(__file__).resolve().parents[2] / "docs" / "audit.md"


def shown(tmp_path: Path) -> tuple[Policy, dict[str, int]]:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    (tmp_path / "policy.yaml").write_text(block)
    return read_policy(tmp_path / "policy.yaml")


def test_the_policy_is_read_and_uses_every_key(tmp_path: Path) -> None:
    policy, lines = shown(tmp_path)
    assert policy.model_fields_set == set(Policy.model_fields)
    assert set(lines) == set(policy.limits)
    assert all(zone(text) for text in policy.zones)
