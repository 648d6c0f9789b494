"""A decision in words, for three kinds of reader in two languages. The sentences are data: `en.yaml` and `de.yaml`."""

from pellucid.render.words.language import LANGUAGES, Language
from pellucid.render.words.text import AUDIENCES, Audience, check_form, remark, text

__all__ = ["AUDIENCES", "LANGUAGES", "Audience", "Language", "check_form", "remark", "text"]
