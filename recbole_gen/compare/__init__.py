"""What finished runs say about models: tables, tests, figures and one page, from their folders alone.

`summarise` reads the folders of models x seeds under one protocol, `text` and `write` say what is in them. Everything
that is printed was measured by the runs themselves; nothing is trained, scored or chosen by a test metric here.
"""

from recbole_gen.compare.files import write
from recbole_gen.compare.summary import SAME, Summary, check, summarise
from recbole_gen.compare.tables import text

__all__ = ["SAME", "Summary", "check", "summarise", "text", "write"]
