"""A field of the report page of your own: a table of the first hits that changed."""

from vitjax.evaluation.page_fields import SECTIONS


def changed(ranking, results):
    """Rows of a table, its header first; text, or a dictionary of names and values, would do too."""
    rows = [["query", "first hit before", "after"]]
    for query, (before, after) in enumerate(zip(ranking.before, ranking.after.index, strict=True)):
        if before[0] != after[0]:
            rows.append([query, before[0], after[0]])
    return rows if len(rows) > 1 else f"none of {results['queries']} queries"


SECTIONS["First hits that changed"] = changed
