"""An explanation as a notebook shows it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pellucid.render.ledger import printed
from pellucid.render.overlay import overlay, scale, usual_width
from pellucid.render.picture import data_uri, png

if TYPE_CHECKING:
    from pellucid.explanation import Explanation

SHOWN = 8

_CELL = "padding:1px 10px 1px 0;border:0;background:none;color:#212529"
_NUMBER = f"{_CELL};text-align:right;font-variant-numeric:tabular-nums"


def card(explanation: Explanation) -> str:
    """HTML of up to eight inputs: overlay (all at one colour scale), the decision in words, and the ledger.

    Each of several targets has a panel of its own.

    Self-contained and without script; names are escaped.
    """
    limit = scale([explanation])
    targets = explanation.map.shape[1] if explanation.several else 1
    places = [(i, k) for i in range(len(explanation)) for k in range(targets)]
    shown = [explanation[i].of(k) for i, k in places[:SHOWN]]
    more, spelled = len(places) - len(shown), "e.of(k)[i]" if explanation.several else "e[i]"
    rest = f'<p style="color:#5a626a;margin:8px 0 0">{more} more; see {spelled}.</p>' if more > 0 else ""
    panels = "".join(_panel(one, limit) for one in shown)
    return (
        '<div style="background:#fff;color:#212529;padding:12px;font:13px/1.45 system-ui,sans-serif">'
        f'<div style="display:flex;flex-wrap:wrap;gap:20px;align-items:flex-start">{panels}</div>{rest}</div>'
    )


def _panel(one: Explanation, limit: float) -> str:
    picture = data_uri(png(overlay(one, limit=limit, width=usual_width(one, 0.71))))
    words = escape(one.text())
    table = _ledger(one) if one.complete else ""
    return (
        f'<figure style="margin:0;max-width:540px"><img src="{picture}" alt="Signed map over the input. {words}" style="max-width:100%">'
        f'<figcaption style="margin:6px 0">{words}</figcaption>{table}</figure>'
    )


def _ledger(one: Explanation) -> str:
    ledger = printed(one.ledger().as_dict())
    rows = [(r.what, r.value, r.where) for r in ledger.rows] + [("sum", ledger.total, ""), ("score", ledger.score, "")]
    body = "".join(
        f'<tr style="background:none"><th scope="row" style="{_CELL};text-align:left;font-weight:normal">{escape(what)}</th>'
        f'<td style="{_NUMBER}">{escape(value)}</td><td style="{_CELL};color:#5a626a">{escape(where)}</td></tr>'
        for what, value, where in rows
    )
    caption = (
        f'<caption style="text-align:left;font-weight:600;color:#212529">evidence for {escape(ledger.target)}</caption>'
    )
    return f'<table style="border-collapse:collapse;font-size:12px">{caption}<tbody>{body}</tbody></table>'
