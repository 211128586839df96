"""Figures by labeler, as the API lists them: how much each has done in a project, how fast, and when."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import case, func, literal, select, union_all
from sqlalchemy.orm import Session

from app.models import Demonstration, Ranking, User
from app.services.api.listing import Fields, Listing, Part, page
from app.services.data import pseudonyms
from app.services.labeling import answered


def statistics(session: Session, project_id: UUID, part: Part, *, with_names: bool) -> Listing:
    """Return a row for each person who has ranked or demonstrated in the project; their last words are counted.

    `with_names` adds name and address, which only somebody who may see them asks for.
    """
    words = union_all(
        *(
            select(
                table.user_id,
                literal(table is Ranking).label("is_ranking"),
                table.counted,
                table.seconds,
                table.created_at,
            ).where(table.project_id == project_id, *answered.last_words(table))
            for table in (Ranking, Demonstration)
        )
    ).subquery("words")
    # A demonstration's seconds become null, which percentiles leave out.
    seconds = case((words.c.is_ranking, words.c.seconds))
    figures = (
        select(
            words.c.user_id,
            func.count().filter(words.c.is_ranking).label("rankings"),
            func.count().filter(~words.c.is_ranking).label("demonstrations"),
            func.count().filter(~words.c.counted).label("not_counted"),
            func.percentile_cont(0.5).within_group(seconds).label("median_seconds"),
            func.min(words.c.created_at).label("first_at"),
            func.max(words.c.created_at).label("last_at"),
        )
        .group_by(words.c.user_id)
        .subquery("figures")
    )
    query = select(
        User.email,
        User.name,
        User.is_simulated.label("simulated"),
        *(column for column in figures.c if column.name != "user_id"),
    ).join(figures, figures.c.user_id == User.id)
    found = page(session, query, User.id, part)
    return Listing([_shown(row, with_names=with_names) for row in found.rows], found.last)


def _shown(row: Fields, *, with_names: bool) -> Fields:
    shown = {"labeler": pseudonyms.of_labeler(row["email"]), **row}
    return shown if with_names else shown | {"email": None, "name": None}
